package main

import (
	"context"
	"flag"
	"net/http"

	"github.com/labstack/echo/v4"
)

// echoServer is the child that answers hello without any guest, by the web framework that the API uses.
func echoServer(args []string) error {
	f := flag.NewFlagSet("echo", flag.ContinueOnError)
	address := f.String("address", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, hello) })
	return e.Start(*address)
}

// startEcho starts the echo server and answers its URL.
func (b *bench) startEcho(ctx context.Context) (*process, string, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	p, err := b.startChild(ctx, "echo", "-address", address)
	if err != nil {
		return nil, "", err
	}
	url := "http://" + address + "/"
	if err := p.answers(ctx, url); err != nil {
		p.stop()
		return nil, "", err
	}
	return p, url, nil
}
