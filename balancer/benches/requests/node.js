// An HTTP server on a listening socket that it was handed as its standard input.
const http = require("node:http");

http.createServer((_, answer) => answer.end("hello\n")).listen({ fd: 0 });
