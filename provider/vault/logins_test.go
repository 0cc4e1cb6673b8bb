package vault_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"piko.sh/pikokms/internal/emulator"
)

// defaultTTL is how long a token lives for which nothing else is stated.
const defaultTTL = 768 * time.Hour

// grant is a token of the server of the tests.
type grant struct {
	policies    []string
	kind        string        // service or batch
	ttl, period time.Duration // the former of each renewal but for a periodic token
	end         time.Time     // of the longest life
	expires     time.Time
	renewable   bool
	lastRenewal any    // Unix time; nil before the first
	mount       string // of the login; empty without one
	data        any    // that the token wraps; nil if it is for use
}

func (g *grant) extend(now time.Time) {
	life := g.ttl
	if g.period > 0 {
		life = g.period
	}
	g.expires = now.Add(life)
	if g.period == 0 && g.expires.After(g.end) {
		g.expires = g.end
	}
}

func (g *grant) left(now time.Time) int { return int(g.expires.Sub(now).Round(time.Second).Seconds()) }

// loginMount is a way to log in, of AppRole or Kubernetes.
type loginMount struct {
	kind    string
	roles   map[string]map[string]any
	ids     map[string]string          // of a role, by its name
	secrets map[string]map[string]bool // of a role
	config  map[string]any
}

func duration(value any) time.Duration {
	switch value := value.(type) {
	case string:
		d, _ := time.ParseDuration(value)
		return d
	case float64:
		return time.Duration(value) * time.Second
	}
	return 0
}

func stringsOf(value any) []string {
	names := []string{}
	list, _ := value.([]any)
	for _, name := range list {
		names = append(names, fmt.Sprint(name))
	}
	return names
}

// valid returns the grant of a token, unless it has expired.
func (s *transit) valid(token string) *grant {
	g := s.tokens[token]
	if g == nil || g.data != nil || time.Now().After(g.expires) {
		return nil
	}
	return g
}

// grant makes a token and returns what the server answers of it.
func (s *transit) grant(g *grant) map[string]any {
	now, prefix := time.Now(), "s."
	if g.kind == "batch" {
		prefix = "b."
	}
	if g.ttl == 0 {
		g.ttl = defaultTTL
	}
	if g.end.IsZero() {
		g.end = now.Add(defaultTTL)
	}
	g.extend(now)
	token := prefix + rand.Text()
	s.tokens[token] = g
	return map[string]any{"client_token": token, "policies": g.policies, "token_policies": g.policies, "lease_duration": g.left(now), "renewable": g.renewable}
}

func (s *transit) createToken(asked map[string]any) map[string]any {
	g := &grant{policies: stringsOf(asked["policies"]), kind: "service", ttl: duration(asked["ttl"]), period: duration(asked["period"]), renewable: true}
	slices.Sort(g.policies)
	if renewable, ok := asked["renewable"].(bool); ok {
		g.renewable = renewable
	}
	return s.grant(g)
}

func (s *transit) lookUp(token string) (map[string]any, error) {
	if token == emulator.OpenBaoToken {
		return map[string]any{"type": "service", "ttl": 0, "renewable": false, "policies": []string{"root"}}, nil
	}
	g := s.valid(token)
	if g == nil {
		return nil, refusal{http.StatusForbidden, "bad token"}
	}
	return map[string]any{"type": g.kind, "ttl": g.left(time.Now()), "renewable": g.renewable, "policies": g.policies, "last_renewal": g.lastRenewal}, nil
}

func (s *transit) renew(token string) (map[string]any, error) {
	g := s.valid(token)
	if g == nil || !g.renewable {
		return nil, refusal{http.StatusBadRequest, "lease is not renewable"}
	}
	now := time.Now()
	g.extend(now)
	g.lastRenewal = now.Unix()
	return map[string]any{"client_token": token, "policies": g.policies, "lease_duration": g.left(now), "renewable": true}, nil
}

// wrap puts an answer behind a token that is good for one reading.
func (s *transit) wrap(data any) map[string]any {
	g := &grant{kind: "service", ttl: time.Minute, data: data}
	return map[string]any{"token": s.grant(g)["client_token"], "ttl": 60}
}

func (s *transit) unwrap(token string) (map[string]any, error) {
	g := s.tokens[token]
	if g == nil || g.data == nil {
		return nil, refusal{http.StatusBadRequest, "wrapping token is not valid or does not exist"}
	}
	delete(s.tokens, token)
	data, _ := g.data.(map[string]any)
	return data, nil
}

func (s *transit) revoke(mount string) {
	maps.DeleteFunc(s.tokens, func(_ string, g *grant) bool { return g.mount != "" && g.mount == mount })
}

// login answers at the path auth/MOUNT/login.
func (s *transit) login(mount string, asked map[string]any) (map[string]any, error) {
	m := s.logins[mount]
	if m == nil {
		return nil, refusal{http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", "auth/"+mount+"/login")}
	}
	given := func(name string) string { text, _ := asked[name].(string); return text }
	var role map[string]any
	switch m.kind {
	case "approle":
		for name, id := range m.ids {
			if id == given("role_id") && m.secrets[name][given("secret_id")] {
				role = m.roles[name]
			}
		}
		if role == nil {
			return nil, refusal{http.StatusBadRequest, "invalid role or secret ID"}
		}
	default:
		role = m.roles[given("role")]
		if role == nil || !m.review(given("jwt")) {
			return nil, refusal{http.StatusForbidden, "permission denied"}
		}
	}
	g := &grant{policies: append([]string{"default"}, stringsOf(role["token_policies"])...), kind: "service", ttl: duration(role["token_ttl"]), renewable: true, mount: mount}
	if role["token_type"] == "batch" {
		g.kind, g.renewable = "batch", false
	}
	if longest := duration(role["token_max_ttl"]); longest > 0 {
		g.end = time.Now().Add(longest)
	}
	return s.grant(g), nil
}

// review asks Kubernetes whether a token is of a service account.
func (m *loginMount) review(token string) bool {
	roots := x509.NewCertPool()
	authority, _ := m.config["kubernetes_ca_cert"].(string)
	roots.AppendCertsFromPEM([]byte(authority))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	body, _ := json.Marshal(map[string]any{"spec": map[string]any{"token": token}})
	response, err := (&http.Client{Transport: transport}).Post(fmt.Sprint(m.config["kubernetes_host"]), "application/json", bytes.NewReader(body))
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var answer struct {
		Status struct {
			Authenticated bool `json:"authenticated"`
		} `json:"status"`
	}
	text, _ := io.ReadAll(response.Body)
	return json.Unmarshal(text, &answer) == nil && answer.Status.Authenticated
}

// configure answers at the paths below auth/MOUNT/ that are for operators.
func (s *transit) configure(method, path string, asked map[string]any) (map[string]any, error) {
	mount, rest, _ := strings.Cut(path, "/")
	m := s.logins[mount]
	parts := strings.Split(rest, "/")
	switch {
	case m == nil:
		return nil, refusal{http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", "auth/"+path)}
	case rest == "config":
		m.config = asked
	case len(parts) == 2 && parts[0] == "role":
		if m.roles[parts[1]] == nil {
			m.ids[parts[1]], m.secrets[parts[1]] = rand.Text(), make(map[string]bool)
		}
		m.roles[parts[1]] = asked
	case len(parts) == 3 && parts[2] == "role-id" && method == http.MethodGet:
		return map[string]any{"role_id": m.ids[parts[1]]}, nil
	case len(parts) == 3 && parts[2] == "secret-id":
		secret := rand.Text()
		m.secrets[parts[1]][secret] = true
		return map[string]any{"secret_id": secret}, nil
	}
	return nil, nil
}
