// A command of a few lines: it reads the request from its environment, as CGI programs do, and answers a greeting.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
	const char *method = getenv("REQUEST_METHOD");
	if (method == NULL || strcmp(method, "GET") != 0) {
		fputs("Status: 405 Method Not Allowed\r\n\r\n", stdout);
		return 0;
	}
	fputs("Content-Type: text/plain; charset=utf-8\r\n\r\nHello, world!\n", stdout);
	return 0;
}
