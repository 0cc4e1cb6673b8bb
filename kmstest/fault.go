package kmstest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"time"
)

// Fault makes calls fail. Operation, Key and When select them; with zero values they match every
// call.
type Fault struct {
	Operation string             // of the calls that go wrong, such as "Decrypt"
	Key       string             // name, ID or ARN of the key that a call uses; for ReEncrypt also that of its source
	When      func(Request) bool // reports whether to fail a call; it must not call the server
	After     int                // number of matching calls that succeed first
	Times     int                // number of calls that then fail; 0 means all

	Do Action // what goes wrong; required

	seen int
}

func (f *Fault) concerns(r Request) bool {
	for _, name := range []string{r.KeyID, r.KeyARN, r.SourceKeyARN} {
		if name != "" && (f.Key == name || f.Key == keyIDOf(name)) {
			return true
		}
	}
	return false
}

// Action is what a fault does to a call. It answers the call itself, or calls next, which carries
// out the operation and answers. The functions of this package that return an Action make the most
// common ones. The answers of [Error], [Deny] and [Throttle] are those of AWS KMS, and [Answer]
// changes answers of AWS KMS.
type Action func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Error answers with an error of KMS, such as "KMSInternalException", and its HTTP status.
func Error(code, message string) Action {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		answer(w, r, nil, &failure{code, message})
	}
}

// Deny answers with AccessDeniedException, as if no policy allowed the call.
func Deny() Action {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		request := recordOf(r).request
		resource := "*"
		for _, arn := range []string{request.SourceKeyARN, request.KeyARN} {
			if arn != "" {
				resource = arn
			}
		}
		answer(w, r, nil, fail("AccessDeniedException",
			"User: arn:aws:iam::%s:user/test is not authorized to perform: kms:%s on resource: %s because no identity-based policy allows the kms:%[2]s action",
			request.Account, request.Operation, resource))
	}
}

// Throttle answers with ThrottlingException.
func Throttle() Action {
	return Error("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
}

// Delay delays the answer. If the caller gives up before, or the server is closed, the operation is
// not carried out.
func Delay(d time.Duration) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		wait(r, timer.C)
		next.ServeHTTP(w, r)
	}
}

// Stall reads the request and does not answer, until the caller gives up or the server is closed.
// It does not carry out the operation.
func Stall() Action {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { wait(r, nil) }
}

// wait waits until a timer fires. If the caller gives up or the server is closed, it ends the call
// without an answer.
func wait(r *http.Request, timer <-chan time.Time) {
	select {
	case <-timer:
		if r.Context().Err() == nil {
			return
		}
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

// Drop carries out the operation and resets the connection instead of answering.
func Drop() Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		connection := hijack(w)
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, not an end
		}
		_ = connection.Close()
	}
}

// HalfOpen carries out the operation, sends half of the answer, and then nothing more. The
// connection stays open until the caller closes it or the server is closed.
func HalfOpen() Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		// The AWS SDK for Go closes its request's body as soon as an answer begins. If it has not
		// seen that body's end by then, it also closes the connection.
		timer := time.NewTimer(10 * time.Millisecond)
		defer timer.Stop()
		wait(r, timer.C)
		connection := hijack(w)
		defer connection.Close()
		status, body := recorder.Code, recorder.Body.Bytes()
		_, _ = fmt.Fprintf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), recorder.Header().Get("Content-Type"), max(2, len(body)), body[:len(body)/2])
		untilHungUp(r, connection)
	}
}

// Truncate sends half of the answer's body as if it were the whole.
func Truncate() Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		body := recorder.Body.Bytes()
		send(w, recorder.Result(), body[:len(body)/2])
	}
}

// Answer changes the members of a successful answer. They are named as in the KMS API Reference.
// "KeyId" is a string, "Plaintext" and "CiphertextBlob" are a []byte, and "KeyMetadata" is a
// map[string]any.
func Answer(change func(members map[string]any)) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		body := recorder.Body.Bytes()
		if recorder.Code == http.StatusOK {
			members := decode(body)
			change(members)
			body = marshal(members)
		}
		send(w, recorder.Result(), body)
	}
}

// decode returns the members of an answer of KMS.
func decode(body []byte) map[string]any {
	members := make(map[string]any)
	if len(body) == 0 {
		return members
	}
	if err := json.Unmarshal(body, &members); err != nil {
		panic(fmt.Sprintf("kmstest: an answer that is not JSON: %v", err))
	}
	for _, name := range []string{"CiphertextBlob", "Plaintext", "PublicKey", "SharedSecret"} {
		if text, ok := members[name].(string); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				panic(fmt.Sprintf("kmstest: an answer whose %s is not base64: %v", name, err))
			}
			members[name] = b
		}
	}
	return members
}

// Body answers like something that is not a key service, such as a proxy, a load balancer or a
// captive portal.
func Body(status int, contentType, body string) Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		send(w, &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}}, []byte(body))
	}
}

// send sends an answer with another body.
func send(w http.ResponseWriter, a *http.Response, body []byte) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(a.StatusCode)
	_, _ = w.Write(body) // the caller may have given up
	for name, values := range a.Trailer {
		w.Header()[name] = values
	}
}

// hijack takes the connection from the HTTP server.
func hijack(w http.ResponseWriter) net.Conn {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // ends the connection, too
	}
	return connection
}

// untilHungUp waits until the client ends the connection or the server is closed.
func untilHungUp(r *http.Request, connection net.Conn) {
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		_, _ = connection.Read(make([]byte, 1))
	}()
	select {
	case <-hungUp:
	case <-r.Context().Done():
		_ = connection.Close()
		<-hungUp
	}
}
