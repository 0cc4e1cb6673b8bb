package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"piko.sh/pikokms/provider"
)

// maxAnswer bounds an answer of the server in bytes. The largest is that about a key with a
// thousand versions.
const maxAnswer = 1 << 20

// question is the body of a request. JSON has its byte slices in base64.
type question struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	AssociatedData []byte `json:"associated_data,omitempty"`
	Bits           int    `json:"bits,omitempty"`

	// Unknown adds a parameter that no server knows, to find out whether the server warns of
	// parameters that it ignores. If it does, and does not warn of associated_data, it binds
	// associated data.
	Unknown bool `json:"pikokms,omitempty"`
}

// answer has those parts of the server's answer that are used.
type answer struct {
	Data struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
	} `json:"data"`
	Warnings []string `json:"warnings"`
}

// warnsOf reports whether the server warned that it ignored a parameter.
func (a *answer) warnsOf(parameter string) bool {
	for _, warning := range a.Warnings {
		_, ignored, found := strings.Cut(warning, "unrecognized parameters: [")
		for _, name := range strings.Fields(strings.TrimSuffix(ignored, "]")) {
			if found && name == parameter {
				return true
			}
		}
	}
	return false
}

// ask posts a question. The error is one of those that the package documentation lists.
func (p *keyring) ask(ctx context.Context, operation string, q question) (*answer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	path := p.mount + "/" + operation + "/" + p.key
	text, err := p.send(ctx, func(logical *api.Logical) (*api.Response, error) { return logical.WriteRawWithContext(ctx, path, body) })
	if err != nil {
		return nil, judgeAnswer(ctx, operation, path, p.id, err)
	}
	clear(body) // not after an error, since net/http may then still be sending it
	defer clear(text)
	a := new(answer)
	var probe struct {
		Data *struct{} `json:"data"`
	}
	if json.Unmarshal(text, &probe) != nil || probe.Data == nil || json.Unmarshal(text, a) != nil {
		return nil, errNoTransit
	}
	return a, nil
}

// read asks the server about the key.
func (p *keyring) read(ctx context.Context) (*keyState, error) {
	path := p.mount + "/keys/" + p.key
	text, err := p.send(ctx, func(logical *api.Logical) (*api.Response, error) { return logical.ReadRawWithContext(ctx, path) })
	if err != nil {
		return nil, judgeAnswer(ctx, "keys", path, p.id, err)
	}
	var a struct {
		Data keyState `json:"data"`
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Data.Name != p.key {
		return nil, errNoTransit
	}
	return &a.Data, nil
}

// errNoTransit is the error of an answer that the transit engine does not give.
var errNoTransit = fmt.Errorf("%w: the server's answer is not one of the transit engine; check the address and proxies on the way", provider.ErrProviderUnavailable)

// send makes a call and returns the body of the answer. If the server refuses the token, it logs in
// and makes the call again.
func (p *keyring) send(ctx context.Context, call func(*api.Logical) (*api.Response, error)) ([]byte, error) {
	client := p.session.client
	for again := false; ; again = true {
		token := client.Token()
		text, err := p.attempt(ctx, call)
		if again || !isStatus(err, http.StatusForbidden) || !p.session.loginAgain(ctx, token) {
			return text, err
		}
	}
}

// attempt makes a call, and makes it again if its answer breaks off. HashiCorp's client does so
// only if no answer begins.
func (p *keyring) attempt(ctx context.Context, call func(*api.Logical) (*api.Response, error)) ([]byte, error) {
	for n := 1; ; n++ {
		text, err := read(call(p.session.client.Logical()))
		if _, cut := errors.AsType[*cutError](err); !cut || n > p.session.client.MaxRetries() || !sleep(ctx, time.Duration(n)*minRetryWait) {
			return text, err
		}
	}
}

// cutError is the error of an answer that broke off.
type cutError struct{ cause error }

func (e *cutError) Error() string { return "reading the answer: " + e.cause.Error() }

func (e *cutError) Unwrap() error { return e.cause }

// read returns the body of a response.
func read(response *api.Response, err error) ([]byte, error) {
	if response != nil && response.Body != nil {
		defer response.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &api.ResponseError{StatusCode: response.StatusCode, RawError: true}
	}
	// An answer with a key is far smaller than this buffer, so that no part of a key is in one that
	// was outgrown.
	buffer := bytes.NewBuffer(make([]byte, 0, 16<<10))
	_, err = buffer.ReadFrom(io.LimitReader(response.Body, maxAnswer+1))
	text := buffer.Bytes()
	if err != nil {
		clear(text)
		return nil, &cutError{err}
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("%w: the server's answer has over %d bytes", provider.ErrProviderUnavailable, maxAnswer)
	}
	return text, nil
}

// generate returns a new data key and its ciphertext. The caller clears the former.
func (p *keyring) generate(ctx context.Context, additional []byte) (plain []byte, ciphertext string, err error) {
	if p.datakeyIgnores.Load() {
		return p.generateLocally(ctx, additional)
	}
	got, err := p.ask(ctx, "datakey/plaintext", question{AssociatedData: additional, Bits: 8 * provider.DataKeySize, Unknown: len(additional) > 0 && !p.datakeyBinds.Load()})
	if err != nil {
		return nil, "", err
	}
	plain = got.Data.Plaintext
	if len(additional) > 0 && !binds(got, &p.datakeyBinds) {
		clear(plain)
		p.datakeyIgnores.Store(true)
		return p.generateLocally(ctx, additional)
	}
	if len(plain) != provider.DataKeySize {
		clear(plain)
		return nil, "", fmt.Errorf("%w: the server answered with a data key of %d bytes, it was asked for %d", provider.ErrEncryptionFailed, len(plain), provider.DataKeySize)
	}
	return plain, got.Data.Ciphertext, checkCiphertext(got.Data.Ciphertext)
}

// encrypt asks the server to encrypt.
func (p *keyring) encrypt(ctx context.Context, plaintext, additional []byte) (string, error) {
	got, err := p.ask(ctx, "encrypt", question{Plaintext: plaintext, AssociatedData: additional, Unknown: len(additional) > 0 && !p.encryptBinds.Load()})
	if err != nil {
		return "", err
	}
	if len(additional) > 0 && !binds(got, &p.encryptBinds) {
		return "", fmt.Errorf("%w: this server does not bind associated data; it takes OpenBao 2.0 or HashiCorp Vault 1.13, or later", provider.ErrInvalidProvider)
	}
	return got.Data.Ciphertext, checkCiphertext(got.Data.Ciphertext)
}

// binds reports whether the server bound the associated data of a question: it must not warn that
// it ignored them, though it is known to give such warnings. That is known from an earlier answer,
// if known is set, or from the warning of the question's unknown parameter. Then binds sets known.
func binds(got *answer, known interface {
	Load() bool
	Store(bool)
}) bool {
	if got.warnsOf("associated_data") || !known.Load() && !got.warnsOf("pikokms") {
		return false
	}
	known.Store(true)
	return true
}

// checkCiphertext checks that a message can hold a ciphertext.
func checkCiphertext(text string) error {
	if !strings.HasPrefix(text, "vault:v") || len(text) > math.MaxUint16 {
		return fmt.Errorf("%w: the server answered with a ciphertext of %d bytes that does not begin with vault:v", provider.ErrEncryptionFailed, len(text))
	}
	return nil
}

// decrypt asks the server to decrypt. The caller clears the result.
func (p *keyring) decrypt(ctx context.Context, ciphertext string, additional []byte) ([]byte, error) {
	got, err := p.ask(ctx, "decrypt", question{Ciphertext: ciphertext, AssociatedData: additional})
	if err != nil {
		return nil, err
	}
	if len(additional) > 0 && got.warnsOf("associated_data") {
		clear(got.Data.Plaintext)
		return nil, fmt.Errorf("%w: this server does not check associated data; it takes OpenBao 2.0 or HashiCorp Vault 1.13, or later", provider.ErrInvalidProvider)
	}
	return got.Data.Plaintext, nil
}
