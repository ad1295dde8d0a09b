// A small HTTP server to be started several times on one port: it says who answered.
//
// Nothing in it knows of balancer. It sets SO_REUSEPORT before bind, which is all that it takes.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Of asm-generic/socket.h; package syscall does not have it on every architecture.
const soReusePort = 0xf

func reusePort(_, _ string, connection syscall.RawConn) error {
	var failed error
	err := connection.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1)
	})
	if err != nil {
		return err
	}
	return failed
}

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "where to listen")
	flag.Parse()

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()

	config := net.ListenConfig{Control: reusePort}
	listener, err := config.Listen(stop, "tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	pid := os.Getpid()
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Client [%s] received msg from Server PID: [%d]\n", r.RemoteAddr, pid)
	})}
	fmt.Printf("Server with PID: [%d] is running\n", pid)
	go func() {
		<-stop.Done()
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(patience)
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
