package kmstest

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// The states that a key can have, as AWS names them (AWS KMS Developer Guide, "Key states of AWS
// KMS keys").
const (
	stateCreating               = "Creating"
	stateEnabled                = "Enabled"
	stateDisabled               = "Disabled"
	statePendingDeletion        = "PendingDeletion"
	statePendingImport          = "PendingImport"
	statePendingReplicaDeletion = "PendingReplicaDeletion"
	stateUnavailable            = "Unavailable"
	stateUpdating               = "Updating"
)

var states = []string{
	stateCreating, stateEnabled, stateDisabled, statePendingDeletion, statePendingImport, statePendingReplicaDeletion,
	stateUnavailable, stateUpdating,
}

// Key describes a KMS key. The zero value is an enabled symmetric key in [Region] and [Account].
type Key struct {
	ID          string // a UUID, or mrk- and 32 hexadecimal digits; default: a random one
	Account     string // 12 digits
	Region      string
	Alias       string // "alias/…", which CreateKey gives the key as a further name
	Description string

	Spec  string // such as "RSA_2048"; default "SYMMETRIC_DEFAULT"
	Usage string // default: "ENCRYPT_DECRYPT", or the first use that the spec allows
	State string // such as "Disabled"; default "Enabled"

	MultiRegion bool // makes a primary key, which Replicate copies to other Regions

	ARN string // CreateKey makes it of the fields above
}

const (
	symmetric      = "SYMMETRIC_DEFAULT"
	encryptDecrypt = "ENCRYPT_DECRYPT"
)

// key is a key of the server. The server's lock guards its fields.
type key struct {
	Key
	created     time.Time
	deletion    time.Time // zero unless the key is pending deletion
	window      int       // in days; kept while the deletion of a primary key waits for that of its replicas
	rotates     bool
	period      int // days
	replica     bool
	shared      *shared
	makePrivate func() *rsa.PrivateKey
	ec          *ecdh.PrivateKey // nil for keys of other kinds
}

// shared is what a multi-Region key and its replicas share.
type shared struct {
	materials []*material // the newest is last
	keys      []*key      // the primary is first
}

func (k *key) newest() *material { return k.shared.materials[len(k.shared.materials)-1] }

// CreateKey makes a key, and returns it with its ARN and with defaults filled in. It panics if
// there can't be such a key, as with an unknown spec or an alias that is in use.
func (s *Server) CreateKey(template Key) Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, failure := s.create(template)
	if failure != nil {
		panic("kmstest: CreateKey: " + failure.code + ": " + failure.message)
	}
	return k.Key
}

func (s *Server) create(k Key) (*key, *failure) {
	setDefault(&k.Account, Account)
	setDefault(&k.Region, Region)
	setDefault(&k.Spec, symmetric)
	spec, ok := specs[k.Spec]
	if !ok {
		return nil, invalid("1 validation error detected: Value '%s' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: %v", k.Spec, specNames())
	}
	setDefault(&k.Usage, spec.usages[0])
	if !spec.allows(k.Usage) {
		return nil, invalid("KeyUsage %s is not compatible with KeySpec %s", k.Usage, k.Spec)
	}
	if k.State == "" {
		k.State = stateEnabled
	}
	if k.ID == "" {
		k.ID = newKeyID(k.MultiRegion)
	}
	k.ARN = arnOf(partitionOf(k.Region), k.Region, k.Account, "key/"+k.ID)
	if s.find(k.Region, k.Account, k.ID) != nil {
		return nil, fail("AlreadyExistsException", "a key %s exists", k.ARN)
	}
	made := &key{Key: k, created: time.Now(), shared: &shared{materials: []*material{newMaterial()}}}
	if spec.bits != 0 {
		made.makePrivate = sync.OnceValue(func() *rsa.PrivateKey {
			private, err := rsa.GenerateKey(rand.Reader, spec.bits)
			if err != nil {
				panic(err) // RSA keys can have every size in specs
			}
			return private
		})
	}
	if spec.curve != nil {
		private, err := spec.curve.GenerateKey(rand.Reader)
		if err != nil {
			panic(err) // it never fails
		}
		made.ec = private
	}
	made.shared.keys = []*key{made}
	if k.Alias != "" {
		if failure := s.addAlias(k.Alias, made); failure != nil {
			return nil, failure
		}
	}
	s.keys = append(s.keys, made)
	return made, nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func newKeyID(multiRegion bool) string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	if multiRegion {
		return "mrk-" + hex.EncodeToString(b[:])
	}
	return uuid(b)
}

// partitionOf returns the partition of a Region.
func partitionOf(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

func arnOf(partition, region, account, resource string) string {
	return fmt.Sprintf("arn:%s:kms:%s:%s:%s", partition, region, account, resource)
}

func keyIDOf(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// SetState puts a key into any state, such as "Disabled", even one that no call can bring about. It
// panics if no key has that ARN, or if AWS has no such state.
func (s *Server) SetState(keyARN, state string) {
	if !slices.Contains(states, state) {
		panic(fmt.Sprintf("kmstest: no key can be in state %q", state))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.must(keyARN).State = state
}

// Replicate copies a multi-Region key to another Region. It panics if the key is not multi-Region,
// or has a replica in that Region.
func (s *Server) Replicate(keyARN, region string) Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, failure := s.replicate(s.must(keyARN), region)
	if failure != nil {
		panic("kmstest: Replicate: " + failure.code + ": " + failure.message)
	}
	return k.Key
}

func (s *Server) replicate(primary *key, region string) (*key, *failure) {
	if !primary.MultiRegion || primary.replica {
		return nil, fail("UnsupportedOperationException", "%s is not a multi-Region primary key.", primary.ARN)
	}
	if region == primary.Region || s.find(region, primary.Account, primary.ID) != nil {
		return nil, fail("AlreadyExistsException", "%s already has a key in Region %s.", primary.ARN, region)
	}
	k := &key{
		Key: primary.Key, created: time.Now(), replica: true,
		shared: primary.shared, makePrivate: primary.makePrivate, ec: primary.ec,
	}
	k.Region, k.Alias, k.Description, k.State = region, "", "", stateEnabled
	k.ARN = arnOf(partitionOf(k.Region), k.Region, k.Account, "key/"+k.ID)
	s.keys = append(s.keys, k)
	primary.shared.keys = append(primary.shared.keys, k)
	return k, nil
}

// DeleteKey removes a key with its aliases, as AWS does after the waiting period of
// ScheduleKeyDeletion. It panics if no key has that ARN.
func (s *Server) DeleteKey(keyARN string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.must(keyARN)
	for name, k := range s.aliases {
		if k == gone {
			delete(s.aliases, name)
		}
	}
	s.keys = without(s.keys, gone)
	gone.shared.keys = without(gone.shared.keys, gone)
	if len(gone.shared.keys) == 1 {
		gone.shared.keys[0].replicasGone()
	}
}

func without(keys []*key, gone *key) []*key {
	var rest []*key
	for _, k := range keys {
		if k != gone {
			rest = append(rest, k)
		}
	}
	return rest
}

func (s *Server) must(keyARN string) *key {
	for _, k := range s.keys {
		if k.ARN == keyARN {
			return k
		}
	}
	panic("kmstest: no key " + keyARN)
}

// find returns the key with an ID, or nil.
func (s *Server) find(region, account, id string) *key {
	for _, k := range s.keys {
		if k.Region == region && k.Account == account && k.ID == id {
			return k
		}
	}
	return nil
}

// lookUp finds the key that a caller names by ID, ARN, alias or alias ARN.
func (s *Server) lookUp(region, account, name string) (*key, *failure) {
	resource := name
	if strings.HasPrefix(name, "arn:") {
		parts := strings.SplitN(name, ":", 6)
		if len(parts) < 6 || parts[2] != "kms" {
			return nil, fail("InvalidArnException", "Invalid arn %s", name)
		}
		if parts[3] != region {
			return nil, fail("NotFoundException", "Invalid arn %s", parts[3])
		}
		account, resource = parts[4], parts[5]
		if id, ok := strings.CutPrefix(resource, "key/"); ok {
			resource = id
		} else if !strings.HasPrefix(resource, "alias/") {
			return nil, fail("InvalidArnException", "Invalid arn %s", name)
		}
	}
	if strings.HasPrefix(resource, "alias/") {
		if k := s.aliases[aliasName{region, account, resource}]; k != nil {
			return k, nil
		}
		return nil, fail("NotFoundException", "Alias %s is not found.", arnOf("aws", region, account, resource))
	}
	if k := s.find(region, account, resource); k != nil && (resource == name || k.ARN == name) {
		return k, nil
	}
	if !isKeyID(resource) {
		return nil, fail("NotFoundException", "Invalid keyId '%s'", resource)
	}
	return nil, fail("NotFoundException", "Key '%s' does not exist", arnOf("aws", region, account, "key/"+resource))
}

// isKeyID reports whether a string has the form of a key ID.
func isKeyID(s string) bool {
	if digits, ok := strings.CutPrefix(s, "mrk-"); ok {
		return len(digits) == 32 && strings.Trim(digits, "0123456789abcdef") == ""
	}
	return len(s) == 36 && strings.Count(s, "-") == 4 && strings.Trim(s, "0123456789abcdefABCDEF-") == ""
}

// materialID returns the KeyMaterialId of a backing key.
func (m *material) materialID() string { return hex.EncodeToString(m.id[:sha256.Size]) }
