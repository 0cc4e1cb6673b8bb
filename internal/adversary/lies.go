package adversary

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// Lies are the answers that a client gets from something between it and a service, such as a proxy,
// and answers of the service that break off. A client must not take any of them for the service's.
var Lies = map[string]http.HandlerFunc{
	"a body that is cut": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Content-Length", "500")
		_, _ = io.WriteString(w, `{"data":{"ciph`)
	},
	"a header that is cut": func(w http.ResponseWriter, r *http.Request) {
		send(w, r, "HTTP/1.1 200 OK\r\nContent-Type: applic")
	},
	"nothing": func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
	"a page": func(w http.ResponseWriter, r *http.Request) {
		page(w, http.StatusOK, "Log in to the network")
	},
	"a page of a gateway": func(w http.ResponseWriter, r *http.Request) { page(w, http.StatusBadGateway, "502 Bad Gateway") },
	"JSON of another service": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"UP","components":{"db":{"status":"UP"}}}`)
	},
	"JSON of another type": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, `["OK"]`)
	},
	"silence": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does net/http notice that the client hangs up
		<-r.Context().Done()
	},
	"a reset": func(w http.ResponseWriter, r *http.Request) { send(w, r, "") },
}

func page(w http.ResponseWriter, status int, title string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<!DOCTYPE html>\n<html><head><title>%s</title></head>\n<body><h1>%[1]s</h1></body></html>\n", title)
}

// send answers with a text and closes the connection, or resets it if the text is empty.
func send(w http.ResponseWriter, r *http.Request, text string) {
	_, _ = io.Copy(io.Discard, r.Body)
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2 allows no Hijack, so only the stream is reset
		panic(http.ErrAbortHandler)
	}
	defer connection.Close()
	if text != "" {
		b := bufio.NewWriter(connection)
		_, _ = b.WriteString(text)
		_ = b.Flush()
		return
	}
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// Liar is a server that may lie in place of another handler.
type Liar struct {
	*httptest.Server
	Requests atomic.Int64 // how many requests were answered with a lie

	mu  sync.Mutex
	lie http.HandlerFunc
}

// NewLiar starts a server that hands requests to honest. It also speaks HTTP/2 without TLS.
func NewLiar(t testing.TB, honest http.Handler) *Liar {
	t.Helper()
	l := new(Liar)
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		lie := l.lie
		l.mu.Unlock()
		if lie == nil {
			honest.ServeHTTP(w, r)
			return
		}
		l.Requests.Add(1)
		lie(w, r)
	}))
	l.Config.Protocols = new(http.Protocols)
	l.Config.Protocols.SetHTTP1(true)
	l.Config.Protocols.SetUnencryptedHTTP2(true)
	l.Start()
	t.Cleanup(l.Close)
	return l
}

// Tell makes the server lie from now on, or be honest if lie is nil.
func (l *Liar) Tell(lie http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = lie
	l.Requests.Store(0)
}
