/* Page is a C program that fills a table, and then answers one request. It is given the request as CGI, or with -DSCGI on its standard input. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned table[1 << 16];

static unsigned sum(const char *text) {
	unsigned c = ~0u;
	for (; *text; text++)
		c = table[(c ^ (unsigned char)*text) & 0xffff] ^ (c >> 8);
	return ~c;
}

#ifdef SCGI
/* variable finds a header in LENGTH:NAME\0VALUE\0...,  which is read once. */
static const char *variable(const char *name) {
	static char *header;
	static size_t length;
	if (!header) {
		if (scanf("%zu", &length) != 1 || getchar() != ':' || length > 1 << 20 || !(header = malloc(length + 1)) ||
		    fread(header, 1, length + 1, stdin) != length + 1 || header[length] != ',')
			exit(1);
	}
	for (char *at = header; at < header + length;) {
		char *value = at + strlen(at) + 1;
		if (!strcmp(at, name))
			return value;
		at = value + strlen(value) + 1;
	}
	return "";
}
#else
static const char *variable(const char *name) {
	const char *value = getenv(name);
	return value ? value : "";
}
#endif

int main(void) {
	for (unsigned i = 0; i < 1 << 16; i++) {
		unsigned c = i;
		for (int k = 0; k < 16; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		table[i] = c;
	}
	fprintf(stderr, "ready\n");
	const char *method = variable("REQUEST_METHOD"), *path = variable("PATH_INFO");
	char body[256];
	size_t n = fread(body, 1, sizeof body, stdin);
	printf("Content-Type: text/plain\r\n\r\n%s %s %08x %.*s\n", method, path, sum(path), (int)n, body);
	return 0;
}
