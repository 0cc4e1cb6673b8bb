package kmstest

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// Fault makes calls fail. Operation, Key and When select them; with zero values they match every
// call.
type Fault struct {
	Operation string             // of the calls that go wrong, such as "Decrypt"
	Key       string             // ID or ARN of the key that a call uses; for ReEncrypt also that of its source
	When      func(Request) bool // reports whether to fail a call; it must not call the server
	After     int                // number of matching calls that succeed first
	Times     int                // number of calls that then fail; 0 means all

	Do Action // what goes wrong; required

	seen int
}

// Inject adds a fault. It stays until it has acted Times times, or until remove is called. If
// several faults match a call, all of them act in the order in which they were added: delays add
// up, answers are changed one after the other, and the first error is sent.
func (s *Server) Inject(f Fault) (remove func()) {
	if f.Do.before == nil && f.Do.change == nil && f.Do.send == nil {
		panic("kmstest: a Fault without Do")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	injected := &f
	s.faults = append(s.faults, injected)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(other *Fault) bool { return other == injected })
	}
}

// Heal removes all faults. Calls that a fault has stalled stay stalled.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// match returns the faults that match a call, and counts the call for each. The caller holds the
// lock.
func (s *Server) match(r Request) []*Fault {
	var matching []*Fault
	for _, f := range s.faults {
		if f.Operation != "" && f.Operation != r.Operation || f.Key != "" && !f.concerns(r) || f.When != nil && !f.When(r) {
			continue
		}
		f.seen++
		if f.seen > f.After && (f.Times == 0 || f.seen <= f.After+f.Times) {
			matching = append(matching, f)
		}
	}
	return matching
}

func (f *Fault) concerns(r Request) bool {
	for _, arn := range []string{r.KeyARN, r.SourceKeyARN} {
		if arn != "" && (f.Key == arn || f.Key == keyIDOf(arn)) {
			return true
		}
	}
	return false
}

// Action is what a fault does to a call. The functions of this package that return an Action make
// one.
type Action struct {
	before func(*exchange) *answer       // runs before the operation; an answer replaces it
	change func(members map[string]any)  // changes the operation's answer
	send   func(*exchange, *answer) bool // changes how the answer is sent; true means that it was sent
}

// Error answers with an error of KMS, such as "KMSInternalException", and its HTTP status.
func Error(code, message string) Action {
	return Action{before: func(*exchange) *answer { return encode(nil, &failure{code, message}) }}
}

// Deny answers with AccessDeniedException, as if no policy allowed the call.
func Deny() Action {
	return Action{before: func(x *exchange) *answer {
		r := x.request
		resource := "*"
		for _, arn := range []string{r.SourceKeyARN, r.KeyARN} {
			if arn != "" {
				resource = arn
			}
		}
		return encode(nil, fail("AccessDeniedException",
			"User: arn:aws:iam::%s:user/test is not authorized to perform: kms:%s on resource: %s because no identity-based policy allows the kms:%[2]s action",
			r.Account, r.Operation, resource))
	}}
}

// Throttle answers with ThrottlingException.
func Throttle() Action {
	return Error("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
}

// Delay delays the answer.
func Delay(d time.Duration) Action {
	return Action{before: func(x *exchange) *answer {
		timer := time.NewTimer(d)
		defer timer.Stop()
		x.wait(timer.C)
		return nil
	}}
}

// Stall reads the request and does not answer, until the caller gives up or the server is closed.
// It does not carry out the operation.
func Stall() Action {
	return Action{before: func(x *exchange) *answer {
		x.wait(nil)
		return nil
	}}
}

// wait waits until a timer fires, the caller gives up, or the server is closed.
func (x *exchange) wait(timer <-chan time.Time) {
	select {
	case <-timer:
	case <-x.http.Context().Done():
	case <-x.server.closing:
	}
}

// Run calls a function before the operation is carried out. The function may change a key's state.
func Run(f func(Request)) Action {
	return Action{before: func(x *exchange) *answer { f(*x.request); return nil }}
}

// Drop carries out the operation and resets the connection instead of answering.
func Drop() Action {
	return Action{send: func(x *exchange, _ *answer) bool {
		connection := x.hijack()
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, not an end
		}
		_ = connection.Close()
		return true
	}}
}

// HalfOpen carries out the operation, sends half of the answer, and then nothing more. The
// connection stays open until the caller closes it or the server is closed.
func HalfOpen() Action {
	return Action{send: func(x *exchange, a *answer) bool {
		// The AWS SDK for Go closes its request's body as soon as an answer begins. If it has not
		// seen that body's end by then, it also closes the connection.
		timer := time.NewTimer(10 * time.Millisecond)
		defer timer.Stop()
		x.wait(timer.C)
		connection := x.hijack()
		defer connection.Close()
		_, _ = fmt.Fprintf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			a.status, http.StatusText(a.status), a.header.Get("Content-Type"), max(2, len(a.body)), a.body[:len(a.body)/2])
		x.untilHungUp(connection)
		return true
	}}
}

// Truncate sends half of the answer's body as if it were the whole.
func Truncate() Action {
	return Action{send: func(_ *exchange, a *answer) bool { a.body = a.body[:len(a.body)/2]; return false }}
}

// Header adds an HTTP header to the answer, such as a wrong checksum.
func Header(name, value string) Action {
	return Action{send: func(_ *exchange, a *answer) bool { a.header.Set(name, value); return false }}
}

// Answer changes the members of a successful answer. They are named as in the KMS API Reference.
// "KeyId" is a string, "Plaintext" and "CiphertextBlob" are a []byte, and "KeyMetadata" is a
// map[string]any.
func Answer(change func(members map[string]any)) Action { return Action{change: change} }

// Body answers like something that is not KMS, such as a proxy, a load balancer or a captive
// portal.
func Body(status int, contentType, body string) Action {
	return Action{before: func(*exchange) *answer {
		return &answer{status: status, header: http.Header{"Content-Type": {contentType}}, body: []byte(body)}
	}}
}

// hijack takes the connection from the HTTP server.
func (x *exchange) hijack() net.Conn {
	connection, _, err := http.NewResponseController(x.writer).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // ends the connection, too
	}
	return connection
}

// untilHungUp waits until the client ends the connection or the server is closed.
func (x *exchange) untilHungUp(connection net.Conn) {
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		_, _ = connection.Read(make([]byte, 1))
	}()
	select {
	case <-hungUp:
	case <-x.server.closing:
		_ = connection.Close()
		<-hungUp
	}
}
