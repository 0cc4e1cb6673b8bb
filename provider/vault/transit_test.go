package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"piko.sh/pikokms/internal/emulator"
)

// transit is a server in the process with the rules of OpenBao's transit engine, as far as the
// tests ask for them, and answers in its words. TestTheServerOfTheTests compares the two.
type transit struct {
	mu       sync.Mutex
	mounts   map[string]map[string]*transitKey // by NAMESPACE/MOUNT/
	policies map[string]map[string]string      // capability by path, by name
	tokens   map[string]*grant
	logins   map[string]*loginMount
}

type transitKey struct {
	kind                string
	derived, convergent bool
	deleted, deletable  bool
	versions            [][]byte
	made                []int64
	minDecryption       int
}

func newTransit(t testing.TB) string {
	t.Helper()
	s := &transit{mounts: make(map[string]map[string]*transitKey), policies: make(map[string]map[string]string), tokens: make(map[string]*grant), logins: make(map[string]*loginMount)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

// refusal is an answer with errors.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// ServeHTTP implements http.Handler.
func (s *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := make(map[string]any)
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &asked)
	data, auth, err := s.answer(r, strings.TrimPrefix(r.URL.Path, "/v1/"), asked)
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]any{"data": data, "auth": auth, "warnings": nil, "renewable": false, "lease_duration": 0}
	if err == nil && data != nil && r.Header.Get("X-Vault-Wrap-TTL") != "" {
		answer["data"], answer["wrap_info"] = nil, s.wrap(data)
	}
	switch refused, _ := err.(refusal); {
	case err != nil:
		w.WriteHeader(refused.status)
		answer = map[string]any{"errors": []string{refused.text}}
	case data == nil && auth == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if _, unknown := asked["pikokms"]; unknown && err == nil {
		answer["warnings"] = []string{"Endpoint ignored these unrecognized parameters: [pikokms]"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

var rule = regexp.MustCompile(`path "([^"]+)"\s*\{\s*capabilities = \["(\w+)"\]\s*\}`)

func (s *transit) answer(r *http.Request, path string, asked map[string]any) (data, auth map[string]any, err error) {
	token := r.Header.Get("X-Vault-Token")
	if mount, ok := strings.CutPrefix(path, "auth/"); ok && strings.HasSuffix(mount, "/login") {
		auth, err := s.login(strings.TrimSuffix(mount, "/login"), asked)
		return nil, auth, err
	}
	if path == "sys/wrapping/unwrap" {
		wrapping, given := asked["token"].(string)
		if !given {
			wrapping = token
		}
		data, err := s.unwrap(wrapping)
		return data, nil, err
	}
	granted := s.valid(token)
	isRoot := token == emulator.OpenBaoToken
	if !isRoot && granted == nil {
		return nil, nil, refusal{http.StatusForbidden, "permission denied"}
	}
	switch path {
	case "auth/token/lookup-self":
		data, err := s.lookUp(token)
		return data, nil, err
	case "auth/token/renew-self":
		auth, err := s.renew(token)
		return nil, auth, err
	}
	if !isRoot && !s.permits(granted.policies, path, r.Method) {
		return nil, nil, refusal{http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n"}
	}
	namespace := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	if namespace != "" {
		namespace += "/"
	}
	if rest, ok := strings.CutPrefix(path, "sys/mounts/"); ok {
		s.mounts[namespace+rest+"/"] = make(map[string]*transitKey)
		return nil, nil, nil
	}
	if _, ok := strings.CutPrefix(path, "sys/namespaces/"); ok {
		return map[string]any{"path": path}, nil, nil
	}
	if name, ok := strings.CutPrefix(path, "sys/policies/acl/"); ok {
		s.policies[name] = make(map[string]string)
		text, _ := asked["policy"].(string)
		for _, found := range rule.FindAllStringSubmatch(text, -1) {
			s.policies[name][found[1]] = found[2]
		}
		return nil, nil, nil
	}
	if path == "auth/token/create" {
		return nil, s.createToken(asked), nil
	}
	if path == "auth/token/lookup" {
		other, _ := asked["token"].(string)
		data, err := s.lookUp(other)
		return data, nil, err
	}
	if mount, ok := strings.CutPrefix(path, "sys/auth/"); ok {
		kind, _ := asked["type"].(string)
		s.logins[mount] = &loginMount{kind: kind, roles: make(map[string]map[string]any), ids: make(map[string]string), secrets: make(map[string]map[string]bool)}
		return nil, nil, nil
	}
	if mount, ok := strings.CutPrefix(path, "sys/leases/revoke-prefix/auth/"); ok {
		s.revoke(mount)
		return nil, nil, nil
	}
	if rest, ok := strings.CutPrefix(path, "auth/"); ok {
		data, err := s.configure(r.Method, rest, asked)
		return data, nil, err
	}
	for mount, keys := range s.mounts {
		if rest, ok := strings.CutPrefix(namespace+path, mount); ok {
			data, err := s.engine(keys, r.Method, rest, asked)
			return data, nil, err
		}
	}
	return nil, nil, refusal{http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path)}
}

func (s *transit) permits(policies []string, path, method string) bool {
	needed := map[string]string{http.MethodGet: "read", http.MethodDelete: "delete"}[method]
	if needed == "" {
		needed = "update"
	}
	return slices.ContainsFunc(policies, func(name string) bool { return s.policies[name][path] == needed })
}

var missing = refusal{http.StatusBadRequest, "encryption key not found"}

func (s *transit) engine(keys map[string]*transitKey, method, path string, asked map[string]any) (map[string]any, error) {
	parts := strings.Split(path, "/")
	name, further := parts[len(parts)-1], ""
	if parts[0] == "keys" && len(parts) == 3 {
		name, further = parts[1], parts[2]
	}
	key := keys[name]
	switch {
	case parts[0] == "keys" && further == "" && method == http.MethodGet:
		if key == nil {
			return nil, refusal{http.StatusNotFound, ""}
		}
	case parts[0] == "keys" && further == "" && method == http.MethodDelete:
		if key == nil || !key.deletable {
			return nil, refusal{http.StatusBadRequest, "error deleting policy " + name + ": deletion is not allowed for this key"}
		}
		delete(keys, name)
		return nil, nil
	case parts[0] == "keys" && further == "":
		if key == nil {
			key = &transitKey{kind: "aes256-gcm96", minDecryption: 1}
			if kind, ok := asked["type"].(string); ok {
				key.kind = kind
			}
			key.derived, _ = asked["derived"].(bool)
			key.convergent, _ = asked["convergent_encryption"].(bool)
			key.rotate()
			keys[name] = key
		}
	case key == nil:
		return nil, missing
	case further == "rotate":
		key.rotate()
	case further == "config":
		if n, ok := asked["min_decryption_version"].(float64); ok {
			key.minDecryption = int(n)
		}
		if deletable, ok := asked["deletion_allowed"].(bool); ok {
			key.deletable = deletable
		}
	case further == "soft-delete" || further == "soft-delete-restore":
		key.deleted = further == "soft-delete"
	case method == http.MethodGet:
		return nil, refusal{http.StatusMethodNotAllowed, "1 error occurred:\n\t* unsupported operation\n\n"}
	default:
		return key.use(parts[0], asked)
	}
	return key.describe(name), nil
}

func (k *transitKey) rotate() {
	material := make([]byte, 32)
	_, _ = rand.Read(material) // never fails
	k.versions, k.made = append(k.versions, material), append(k.made, time.Now().Unix())
}

func (k *transitKey) describe(name string) map[string]any {
	versions := make(map[string]any)
	for i := k.minDecryption; i <= len(k.versions); i++ {
		versions[strconv.Itoa(i)] = k.made[i-1]
	}
	return map[string]any{
		"name": name, "type": k.kind, "derived": k.derived, "convergent_encryption": k.convergent, "soft_deleted": k.deleted,
		"exportable": false, "imported_key": false, "deletion_allowed": k.deletable, "keys": versions,
		"latest_version": len(k.versions), "min_decryption_version": k.minDecryption, "min_encryption_version": 0,
	}
}

func (k *transitKey) aead(version int) cipher.AEAD {
	block, err := aes.NewCipher(k.versions[version-1])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

var withoutData = []string{"rsa-", "ecdsa-", "ed25519", "hmac"}

func (k *transitKey) use(operation string, asked map[string]any) (map[string]any, error) {
	bad := func(format string, arguments ...any) (map[string]any, error) {
		return nil, refusal{http.StatusBadRequest, fmt.Sprintf(format, arguments...)}
	}
	bytesOf := func(name string) ([]byte, error) {
		text, _ := asked[name].(string)
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, refusal{http.StatusBadRequest, err.Error()}
		}
		return b, nil
	}
	text, _ := asked["ciphertext"].(string)
	if operation == "decrypt" && text == "" {
		return bad("missing ciphertext to decrypt")
	}
	if k.deleted {
		return bad("refusing to use soft-deleted key")
	}
	if k.derived {
		return bad("missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key")
	}
	additional, err := bytesOf("associated_data")
	if err != nil {
		return nil, err
	}
	if _, given := asked["associated_data"]; given && slices.ContainsFunc(withoutData, func(prefix string) bool { return strings.HasPrefix(k.kind, prefix) }) {
		which := "associated_data"
		if operation == "decrypt" {
			which = "[0].associated_data"
		}
		return bad("'%s' provided for non-AEAD cipher suite %s", which, k.kind)
	}
	latest := len(k.versions)
	sealed := func(plain []byte) map[string]any {
		ciphertext := k.aead(latest).Seal(nil, nil, plain, additional)
		return map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", latest, base64.StdEncoding.EncodeToString(ciphertext)), "key_version": latest}
	}
	switch operation {
	case "datakey":
		bits, given := asked["bits"].(float64)
		if !given {
			bits = 256
		}
		if bits != 128 && bits != 256 && bits != 512 {
			return bad("invalid bit length")
		}
		plain := make([]byte, int(bits)/8)
		_, _ = rand.Read(plain) // never fails
		answer := sealed(plain)
		answer["plaintext"] = plain
		return answer, nil
	case "encrypt":
		plain, err := bytesOf("plaintext")
		if err != nil {
			return nil, err
		}
		return sealed(plain), nil
	}
	rest, ok := strings.CutPrefix(text, "vault:v")
	if !ok {
		return bad("invalid ciphertext: no prefix")
	}
	number, encoded, _ := strings.Cut(rest, ":")
	version, err := strconv.Atoi(number)
	ciphertext, decodeErr := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil || decodeErr != nil:
		return bad("invalid ciphertext: could not decode base64")
	case version > latest:
		return bad("invalid ciphertext: version is too new")
	case version < k.minDecryption:
		return bad("ciphertext or signature version is disallowed by policy (too old)")
	case len(ciphertext) <= 12:
		return bad("invalid ciphertext length")
	}
	plain, err := k.aead(version).Open(nil, nil, ciphertext, additional)
	if err != nil {
		return bad("cipher: message authentication failed")
	}
	return map[string]any{"plaintext": bytes.Clone(plain)}, nil
}

// TestTheServerOfTheTests asks OpenBao and the server of the tests the same questions.
func TestTheServerOfTheTests(t *testing.T) {
	real, ours := emulator.OpenBao(t), newTransit(t)
	mount := fmt.Sprintf("compared-%d", time.Now().UnixNano())
	tokens := map[string]string{real: emulator.OpenBaoToken, ours: emulator.OpenBaoToken}
	kept := make(map[string]string) // ciphertexts and tokens, by server and name
	n := 0
	ask := func(url, method, path, body, token string) (int, map[string]any) {
		request, err := http.NewRequestWithContext(t.Context(), method, url+"/v1/"+strings.ReplaceAll(path, "MOUNT", mount), strings.NewReader(strings.ReplaceAll(body, "MOUNT", mount)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Token", token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer := make(map[string]any)
		if text, _ := io.ReadAll(response.Body); len(text) > 0 {
			if err := json.Unmarshal(text, &answer); err != nil {
				t.Fatalf("%s: %s", path, text)
			}
		}
		return response.StatusCode, answer
	}
	// shape is the content of an answer without its random parts.
	shape := func(status int, answer map[string]any) string {
		data, _ := answer["data"].(map[string]any)
		told := []string{fmt.Sprint(status), fmt.Sprint(answer["errors"]), fmt.Sprint(answer["warnings"])}
		for _, name := range []string{"name", "type", "derived", "soft_deleted", "exportable", "imported_key", "latest_version", "min_decryption_version", "min_encryption_version", "key_version", "ttl", "renewable"} {
			if value, ok := data[name]; ok && name != "ttl" {
				told = append(told, name+"="+fmt.Sprint(value))
			}
		}
		if keys, ok := data["keys"].(map[string]any); ok {
			told = append(told, fmt.Sprint("versions ", slices.Sorted(maps.Keys(keys))))
		}
		if text, ok := data["plaintext"].(string); ok {
			told = append(told, fmt.Sprint("plaintext of ", len(text)))
		}
		if text, ok := data["ciphertext"].(string); ok {
			told = append(told, text[:9]+fmt.Sprint(" of ", len(text)))
		}
		auth, _ := answer["auth"].(map[string]any)
		return strings.Join(append(told, fmt.Sprint(auth["renewable"], auth["lease_duration"])), " ")
	}
	compare := func(method, path, body string) {
		t.Helper()
		n++
		var shapes []string
		for _, url := range []string{real, ours} {
			filled := body
			for name, value := range kept {
				if at, name, ok := strings.Cut(name, " "); ok && at == url {
					filled = strings.ReplaceAll(filled, "<"+name+">", value)
				}
			}
			status, answer := ask(url, method, path, filled, tokens[url])
			shapes = append(shapes, shape(status, answer))
			if data, ok := answer["data"].(map[string]any); ok {
				if text, ok := data["ciphertext"].(string); ok {
					kept[url+" last"] = text
				}
			}
			for name, field := range map[string]string{"role": "role_id", "secret": "secret_id"} {
				if data, ok := answer["data"].(map[string]any); ok && data[field] != nil {
					kept[url+" "+name] = fmt.Sprint(data[field])
				}
			}
			if auth, ok := answer["auth"].(map[string]any); ok {
				kept[url+" token"] = fmt.Sprint(auth["client_token"])
			}
		}
		if shapes[0] != shapes[1] {
			t.Errorf("%s %s %s:\nOpenBao: %s\n   ours: %s", method, path, body, shapes[0], shapes[1])
		}
	}
	const aad = `"associated_data":"YQ=="`
	compare("POST", "sys/mounts/MOUNT", `{"type":"transit"}`)
	for _, key := range []string{`a {}`, `a {}`, `d {"derived":true}`, `c {"derived":true,"convergent_encryption":true}`, `r {"type":"rsa-2048"}`, `e {"type":"ed25519"}`, `p {"type":"ecdsa-p256"}`, `aes {"type":"aes128-gcm96"}`, `cha {"type":"chacha20-poly1305"}`} {
		name, settings, _ := strings.Cut(key, " ")
		compare("POST", "MOUNT/keys/"+name, settings)
		compare("GET", "MOUNT/keys/"+name, "")
		compare("POST", "MOUNT/datakey/plaintext/"+name, `{"bits":256,`+aad+`}`)
		compare("POST", "MOUNT/decrypt/"+name, `{"ciphertext":"vault:v1:AAAA",`+aad+`}`)
	}
	for _, body := range []string{`{}`, `{"bits":128}`, `{"bits":512}`, `{"bits":100}`, `{"bits":256,"pikokms":true,` + aad + `}`} {
		compare("POST", "MOUNT/datakey/plaintext/a", body)
	}
	compare("POST", "MOUNT/encrypt/a", `{"plaintext":"aGVsbG8=",`+aad+`,"pikokms":true}`)
	for _, body := range []string{
		`{"ciphertext":"<last>",` + aad + `}`, `{"ciphertext":"<last>"}`, `{"ciphertext":"<last>","associated_data":"Yg=="}`, `{"ciphertext":"<last>",` + aad + `,"pikokms":true}`,
		`{"ciphertext":"vault:v9:AAAA"}`, `{"ciphertext":"AAAA"}`, `{"ciphertext":""}`, `{"ciphertext":"vault:v1:AAAA"}`,
	} {
		compare("POST", "MOUNT/decrypt/a", body)
	}
	compare("POST", "MOUNT/encrypt/a", `{"plaintext":"!!"}`)
	compare("POST", "MOUNT/keys/a/rotate", "")
	compare("POST", "MOUNT/decrypt/a", `{"ciphertext":"<last>",`+aad+`}`)
	compare("POST", "MOUNT/keys/a/config", `{"min_decryption_version":2}`)
	compare("GET", "MOUNT/keys/a", "")
	compare("POST", "MOUNT/decrypt/a", `{"ciphertext":"<last>",`+aad+`}`)
	compare("POST", "MOUNT/encrypt/a", `{"plaintext":"aGVsbG8="}`)
	compare("DELETE", "MOUNT/keys/a/soft-delete", "")
	for _, operation := range []string{"datakey/plaintext", "encrypt", "decrypt"} {
		compare("POST", "MOUNT/"+operation+"/a", `{"ciphertext":"<last>","plaintext":"aGVsbG8="}`)
		compare("POST", "nowhere/"+operation+"/a", `{"ciphertext":"<last>","plaintext":"aGVsbG8="}`)
	}
	compare("POST", "MOUNT/keys/a/soft-delete-restore", "")
	compare("POST", "MOUNT/decrypt/a", `{"ciphertext":"<last>"}`)
	compare("DELETE", "MOUNT/keys/a", "")
	compare("POST", "MOUNT/keys/a/config", `{"deletion_allowed":true}`)
	compare("DELETE", "MOUNT/keys/a", "")
	for _, operation := range []string{"datakey/plaintext", "decrypt"} {
		compare("POST", "MOUNT/"+operation+"/none", `{"ciphertext":"<last>"}`)
	}
	compare("GET", "MOUNT/keys/none", "")
	compare("GET", "MOUNT/encrypt/d", "")
	compare("GET", "auth/token/lookup-self", "")
	compare("POST", "sys/auth/MOUNT", `{"type":"approle"}`)
	compare("POST", "auth/MOUNT/role/app", `{"token_policies":["MOUNT"],"token_ttl":"9s","token_max_ttl":"9s"}`)
	compare("POST", "auth/MOUNT/login", `{"role_id":"none","secret_id":"none"}`)
	compare("POST", "auth/nowhere/login", `{"role_id":"none","secret_id":"none"}`)
	compare("GET", "auth/MOUNT/role/app/role-id", "")
	compare("POST", "auth/MOUNT/role/app/secret-id", "")
	compare("POST", "auth/MOUNT/login", `{"role_id":"<role>","secret_id":"none"}`)
	compare("POST", "auth/MOUNT/login", `{"role_id":"<role>","secret_id":"<secret>"}`)
	compare("POST", "auth/token/lookup", `{"token":"<token>"}`)
	compare("POST", "auth/token/lookup", `{"token":"none"}`)
	compare("POST", "sys/leases/revoke-prefix/auth/MOUNT", "")
	compare("POST", "auth/token/lookup", `{"token":"<token>"}`)
	compare("POST", "auth/MOUNT/role/app", `{"token_policies":["MOUNT"],"token_ttl":"9s","token_type":"batch"}`)
	compare("POST", "auth/MOUNT/login", `{"role_id":"<role>","secret_id":"<secret>"}`)
	compare("POST", "sys/wrapping/unwrap", `{"token":"none"}`)
	compare("GET", "auth/nowhere/role/app/role-id", "")
	compare("POST", "sys/policies/acl/MOUNT", `{"policy":"path \"MOUNT/keys/d\" { capabilities = [\"read\"] }\npath \"MOUNT/encrypt/cha\" { capabilities = [\"update\"] }"}`)
	compare("POST", "auth/token/create", `{"policies":["MOUNT"]}`)
	for _, url := range []string{real, ours} {
		tokens[url] = kept[url+" token"]
	}
	compare("GET", "auth/token/lookup-self", "")
	compare("POST", "auth/token/renew-self", "")
	compare("GET", "MOUNT/keys/d", "")
	compare("GET", "MOUNT/keys/cha", "")
	compare("POST", "MOUNT/encrypt/cha", `{"plaintext":"aGVsbG8="}`)
	compare("POST", "MOUNT/decrypt/cha", `{"ciphertext":"<last>"}`)
	for _, url := range []string{real, ours} {
		tokens[url] = "of nobody"
	}
	compare("GET", "MOUNT/keys/d", "")
	compare("GET", "auth/token/lookup-self", "")
	http.DefaultClient.CloseIdleConnections()
	t.Logf("%d questions", n)
}
