package azurekeyvaulttest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Key says what kind of key to make. The zero Key is an RSA key of 2,048 bits.
type Key struct {
	Name string   // default "key-" and a number
	Type string   // "RSA", "RSA-HSM", "oct-HSM" (of 256 bits) or "EC"; default "RSA"
	Bits int      // of an RSA key; default 2048
	Ops  []string // permitted operations; default "wrapKey" and "unwrapKey"
}

type key struct {
	Key
	versions []*keyVersion // the last one is the current one
	deleted  time.Time     // zero unless it is deleted
}

type keyVersion struct {
	id      string
	created time.Time
	rsa     *rsa.PrivateKey
	aes     []byte

	disabled           bool
	notBefore, expires time.Time // zero means none
}

// CreateKey makes a key with one version and returns its name.
func (s *Server) CreateKey(k Key) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.Name == "" {
		k.Name = fmt.Sprintf("key-%d", len(s.keys)+1)
	}
	if k.Type == "" {
		k.Type = "RSA"
	}
	if k.Bits == 0 {
		k.Bits = 2048
	}
	if k.Ops == nil {
		k.Ops = []string{"wrapKey", "unwrapKey"}
	}
	made := &key{Key: k}
	made.rotate()
	s.keys[strings.ToLower(k.Name)] = made
	return k.Name
}

func (k *key) rotate() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	v := &keyVersion{id: hex.EncodeToString(id), created: time.Now()}
	switch k.Type {
	case "RSA", "RSA-HSM":
		made, err := rsa.GenerateKey(rand.Reader, k.Bits)
		if err != nil {
			panic(err) // only the size of the test's key can be wrong
		}
		v.rsa = made
	case "oct-HSM":
		v.aes = make([]byte, 32)
		_, _ = rand.Read(v.aes) // never fails
	}
	k.versions = append(k.versions, v)
	return v.id
}

// Rotate gives a key a new version, which is the current one then, and returns it.
func (s *Server) Rotate(name string) (version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[strings.ToLower(name)].rotate()
}

// Versions returns the versions of a key, the oldest first.
func (s *Server) Versions(name string) (versions []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.keys[strings.ToLower(name)].versions {
		versions = append(versions, v.id)
	}
	return versions
}

// update sets attributes of a version of a key. Those that are left out stay as they are.
func (s *Server) update(name, version string, r *http.Request) (any, *failure) {
	k, v, failed := s.find(name, version)
	if failed != nil {
		return nil, failed
	}
	var asked struct {
		Attributes struct {
			Enabled   *bool  `json:"enabled"`
			NotBefore *int64 `json:"nbf"`
			Expires   *int64 `json:"exp"`
		} `json:"attributes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, badParameter
	}
	if a := asked.Attributes.Enabled; a != nil {
		v.disabled = !*a
	}
	if a := asked.Attributes.NotBefore; a != nil {
		v.notBefore = time.Unix(*a, 0)
	}
	if a := asked.Attributes.Expires; a != nil {
		v.expires = time.Unix(*a, 0)
	}
	return bundle(k, v), nil
}

// delete deletes a key, which can be recovered.
func (s *Server) delete(name string) (any, *failure) {
	k, _, failed := s.find(name, "")
	if failed != nil {
		return nil, failed
	}
	k.deleted = time.Now()
	return s.getDeleted(name)
}

// recover brings a deleted key back.
func (s *Server) recover(name string) (any, *failure) {
	k, failed := s.findDeleted(name)
	if failed != nil {
		return nil, failed
	}
	k.deleted = time.Time{}
	return s.get(name, "")
}

// purge removes a deleted key for good.
func (s *Server) purge(name string) (any, *failure) {
	if _, failed := s.findDeleted(name); failed != nil {
		return nil, failed
	}
	delete(s.keys, strings.ToLower(name))
	return nil, nil
}

// find returns a version of a key, or the current one.
func (s *Server) find(name, version string) (*key, *keyVersion, *failure) {
	missing := &failure{http.StatusNotFound, "KeyNotFound", "", fmt.Sprintf("A key with (name/id) %s was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.", strings.TrimSuffix(name+"/"+version, "/"))}
	k := s.keys[strings.ToLower(name)]
	if k == nil || !k.deleted.IsZero() {
		return nil, nil, missing
	}
	if version == "" {
		return k, k.versions[len(k.versions)-1], nil
	}
	for _, v := range k.versions {
		if v.id == version {
			return k, v, nil
		}
	}
	return nil, nil, missing
}

func kid(k *key, v *keyVersion) string {
	return "https://" + Vault + "/keys/" + k.Name + "/" + v.id
}

// bundle returns a vault's description of a version.
func bundle(k *key, v *keyVersion) map[string]any {
	jwk := map[string]any{"kid": kid(k, v), "kty": k.Type, "key_ops": k.Ops}
	if v.rsa != nil {
		jwk["n"] = base64.RawURLEncoding.EncodeToString(v.rsa.N.Bytes())
		jwk["e"] = base64.RawURLEncoding.EncodeToString(big.NewInt(int64(v.rsa.E)).Bytes())
	}
	attributes := map[string]any{"enabled": !v.disabled, "created": v.created.Unix(), "updated": v.created.Unix(), "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}
	if !v.notBefore.IsZero() {
		attributes["nbf"] = v.notBefore.Unix()
	}
	if !v.expires.IsZero() {
		attributes["exp"] = v.expires.Unix()
	}
	return map[string]any{"key": jwk, "attributes": attributes}
}

func (s *Server) get(name, version string) (any, *failure) {
	k, v, err := s.find(name, version)
	if err != nil {
		return nil, err
	}
	return bundle(k, v), nil
}

// findDeleted returns a deleted key.
func (s *Server) findDeleted(name string) (*key, *failure) {
	k := s.keys[strings.ToLower(name)]
	if k == nil || k.deleted.IsZero() {
		return nil, &failure{http.StatusNotFound, "KeyNotFound", "", fmt.Sprintf("Deleted Key not found: %s", name)}
	}
	return k, nil
}

func (s *Server) getDeleted(name string) (any, *failure) {
	k, failed := s.findDeleted(name)
	if failed != nil {
		return nil, failed
	}
	deleted := bundle(k, k.versions[len(k.versions)-1])
	deleted["recoveryId"] = "https://" + Vault + "/deletedkeys/" + k.Name
	deleted["deletedDate"], deleted["scheduledPurgeDate"] = k.deleted.Unix(), k.deleted.AddDate(0, 0, 90).Unix()
	return deleted, nil
}

var badParameter = &failure{http.StatusBadRequest, "BadParameter", "", "The parameter is incorrect."}

// request is the body of a request to wrapkey or unwrapkey.
type request struct {
	Algorithm string `json:"alg"`
	Value     string `json:"value"`
}

// use returns the version and the value of a request to use a key.
func (s *Server) use(name, version, operation string, r *http.Request) (*key, *keyVersion, string, []byte, *failure) {
	k, v, failed := s.find(name, version)
	if failed != nil {
		return nil, nil, "", nil, failed
	}
	forbidden := func(inner, format string) *failure {
		return &failure{http.StatusForbidden, "Forbidden", inner, fmt.Sprintf(format, operation)}
	}
	now := time.Now()
	switch {
	case v.disabled:
		return nil, nil, "", nil, forbidden("KeyDisabled", "Operation %s is not allowed on a disabled key.")
	case operation == "wrapKey" && !v.notBefore.IsZero() && now.Before(v.notBefore):
		return nil, nil, "", nil, forbidden("KeyNotYetValid", "Operation %s is not allowed on a key that is not yet valid.")
	case operation == "wrapKey" && !v.expires.IsZero() && !now.Before(v.expires):
		return nil, nil, "", nil, forbidden("KeyExpired", "Operation %s is not allowed on an expired key.")
	case !slices.Contains(k.Ops, operation):
		return nil, nil, "", nil, forbidden("KeyOperationForbidden", "Operation %s is not permitted on this key.")
	}
	var asked request
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, nil, "", nil, badParameter
	}
	value, err := base64.RawURLEncoding.DecodeString(asked.Value)
	if err != nil || len(value) == 0 {
		return nil, nil, "", nil, badParameter
	}
	algorithms := []string{"RSA-OAEP", "RSA-OAEP-256"}
	if v.rsa == nil {
		algorithms = []string{"A256KW"}
	}
	if !slices.Contains(algorithms, asked.Algorithm) {
		return nil, nil, "", nil, &failure{http.StatusBadRequest, "BadParameter", "", fmt.Sprintf("Key and algorithm are incompatible. Key %s is of type '%s'.", kid(k, v), k.Type)}
	}
	return k, v, asked.Algorithm, value, nil
}

func hashOf(algorithm string) hash.Hash {
	if algorithm == "RSA-OAEP" {
		return sha1.New()
	}
	return sha256.New()
}

func (s *Server) wrap(name, version string, r *http.Request) (any, *failure) {
	k, v, algorithm, value, failed := s.use(name, version, "wrapKey", r)
	if failed != nil {
		return nil, failed
	}
	var wrapped []byte
	var err error
	if v.rsa != nil {
		wrapped, err = rsa.EncryptOAEP(hashOf(algorithm), rand.Reader, &v.rsa.PublicKey, value, nil)
	} else {
		wrapped, err = wrapAES(v.aes, value)
	}
	return result(k, v, wrapped, err)
}

func (s *Server) unwrap(name, version string, r *http.Request) (any, *failure) {
	k, v, algorithm, value, failed := s.use(name, version, "unwrapKey", r)
	if failed != nil {
		return nil, failed
	}
	var plain []byte
	var err error
	if v.rsa != nil {
		plain, err = rsa.DecryptOAEP(hashOf(algorithm), nil, v.rsa, value, nil)
	} else {
		plain, err = unwrapAES(v.aes, value)
	}
	return result(k, v, plain, err)
}

func result(k *key, v *keyVersion, value []byte, err error) (any, *failure) {
	if err != nil {
		return nil, &failure{http.StatusBadRequest, "BadParameter", "", "The parameter is incorrect.\r\n"}
	}
	return map[string]any{"kid": kid(k, v), "value": base64.RawURLEncoding.EncodeToString(value)}, nil
}
