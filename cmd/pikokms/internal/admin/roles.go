package admin

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/provider/awskms"
)

// The roles of those who use keys. An empty role needs all actions that encrypt and decrypt.
const (
	roleReader    = "reader"
	roleWriter    = "writer"
	roleRewrapper = "rewrapper"
)

// Actions of IAM on keys of AWS KMS (Service Authorization Reference, "Actions defined by AWS Key
// Management Service").
const (
	actionDecrypt            = "kms:Decrypt"
	actionDescribeKey        = "kms:DescribeKey"
	actionDeriveSharedSecret = "kms:DeriveSharedSecret"
	actionEncrypt            = "kms:Encrypt"
	actionGenerateDataKey    = "kms:GenerateDataKey"
	actionGetPublicKey       = "kms:GetPublicKey"
	actionReEncrypt          = "kms:ReEncrypt*" // kms:ReEncryptFrom and kms:ReEncryptTo

	actionGetKeyRotationStatus = "kms:GetKeyRotationStatus"
)

var roles = []string{roleReader, roleWriter, roleRewrapper}

func checkRole(role string) error {
	if !slices.Contains(roles, role) {
		return console.Usage(fmt.Errorf("--role %q; known are %s", role, strings.Join(roles, ", ")))
	}
	return nil
}

// roleKeys are the KEYs of a command line and what a role does with them.
type roleKeys struct {
	role    string            // empty for encrypting and decrypting
	keys    []*keys.Key       // those of -k, then those of --to
	sources int               // number of those of -k
	pairs   map[string]string // of -c
}

// parse parses the values of -k, --to and -c. The caller closes the keys.
func (r *roleKeys) parse(given, to, stated []string, timeout time.Duration) (err error) {
	if len(to) > 0 && r.role != roleRewrapper {
		return console.Usage(errors.New("--to is for --role rewrapper"))
	}
	if r.pairs, err = keys.ParsePairs(stated); err != nil {
		return err
	}
	if r.keys, err = keys.Parse(given, timeout, false); err != nil {
		return err
	}
	if r.sources = len(r.keys); len(to) == 0 {
		return nil
	}
	targets, err := keys.Parse(to, timeout, false)
	r.keys = append(r.keys, targets...)
	return err
}

// actions returns the actions of IAM that the role needs on one of the keys, if that is a symmetric
// one, except kms:DescribeKey. If messages are encrypted under one key alone, that key makes their
// data keys. Several keys wrap a data key that is made here.
func (r *roleKeys) actions(i int) []string {
	isTarget, targets := i >= r.sources, len(r.keys)-r.sources
	wrap := actionGenerateDataKey
	if targets > 1 || targets == 0 && r.sources > 1 {
		wrap = actionEncrypt
	}
	switch {
	case r.role == roleReader, targets > 0 && !isTarget:
		return []string{actionDecrypt}
	case r.role == roleWriter, isTarget:
		return []string{wrap}
	}
	return []string{actionDecrypt, wrap}
}

// rsaActionsOf returns the actions on an RSA key that do what these do on a symmetric one. To
// encrypt under an RSA key takes its public half, which is in a file or is asked for.
func rsaActionsOf(actions []string, hasPublicKey bool) []string {
	var needed []string
	for _, action := range actions {
		switch {
		case action == actionDecrypt:
			needed = append(needed, action)
		case !hasPublicKey:
			needed = append(needed, actionDescribeKey, actionGetPublicKey)
		}
	}
	return needed
}

// ecActionsOf returns the actions on an EC key that do what these do on a symmetric one. Unwrapping
// a data key takes a secret that KMS derives from this key and another, and so does wrapping one if
// there is a peer. Without a peer, encrypting takes the public half alone. A peer shows that the
// key is an EC key, so its kind is not asked for.
func ecActionsOf(actions []string, config *awskms.Config) []string {
	var needed []string
	hasPeer := config.PeerFile != ""
	if hasPeer || slices.Contains(actions, actionDecrypt) {
		needed = append(needed, actionDeriveSharedSecret)
	}
	if config.PublicKeyFile != "" {
		return needed
	}
	if !hasPeer {
		needed = append(needed, actionDescribeKey)
	}
	return append(needed, actionGetPublicKey)
}

// isECFile reports whether a file has the public half of an EC key, rather than that of an RSA key.
func isECFile(path string) (bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading the public key, which shows the key's kind: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false, fmt.Errorf("%s has no public key in PEM", path)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return false, fmt.Errorf("%s has no public key: %w", path, err)
	}
	_, isEC := public.(*ecdsa.PublicKey)
	return isEC, nil
}

// brokenWithout returns what does not work without an action.
func brokenWithout(action string, isARN bool) string {
	switch action {
	case actionDescribeKey:
		if isARN {
			return "encrypt and rewrap --to, to check the key first, and under an RSA key without public-key= in its URL"
		}
		return "every command, since the key is named by an alias or its ID"
	case actionGenerateDataKey:
		return "encrypt -k and rewrap --to, where it is the only key"
	case actionEncrypt:
		return "encrypt -k and rewrap --to, where it is one of several keys; short strings in programs"
	case actionDecrypt:
		return "decrypt, verify, cat, serve and rewrap"
	case actionDeriveSharedSecret:
		return "decrypt, verify, cat, serve and rewrap under an EC key, and encrypt with peer= in its URL"
	case actionGetPublicKey:
		return "encrypt -k and rewrap --to, and decrypting under an EC key, without public-key= in its URL"
	case actionReEncrypt:
		return "Host.ReEncrypt of strings in programs, and no command"
	}
	return "keys check, to tell of rotation"
}

// Statement is a statement of a policy of IAM or of a key.
type Statement struct {
	Sid       string                       `json:"Sid"`
	Effect    string                       `json:"Effect"`
	Principal map[string]any               `json:"Principal,omitempty"`
	Action    any                          `json:"Action"`
	Resource  any                          `json:"Resource"`
	Condition map[string]map[string]string `json:"Condition,omitempty"`
}

// PolicyVersion is the version of the policy language (IAM User Guide, "IAM JSON policy elements:
// Version").
const PolicyVersion = "2012-10-17"

// Policy is a policy of IAM or of a key.
type Policy struct {
	Version   string      `json:"Version"`
	Statement []Statement `json:"Statement"`
}

// oneOrList returns a list as policies write it: a single element without brackets.
func oneOrList(list []string) any {
	if len(list) == 1 {
		return list[0]
	}
	return list
}

// onContext returns the condition that calls have these pairs in their encryption context (AWS KMS
// Developer Guide, "kms:EncryptionContext:context-key").
func onContext(pairs map[string]string) map[string]map[string]string {
	if len(pairs) == 0 {
		return nil
	}
	condition := make(map[string]string, len(pairs))
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		condition["kms:EncryptionContext:"+name] = pairs[name]
	}
	return map[string]map[string]string{"StringEquals": condition}
}

// takesContext reports whether calls for an action have an encryption context.
func takesContext(action string) bool {
	return action != actionDescribeKey && action != actionGetPublicKey && action != actionDeriveSharedSecret
}

// allow returns the statements that allow actions on resources. Actions whose calls have an
// encryption context are allowed only with these pairs.
func allow(sid string, actions []string, resources []string, pairs map[string]string) []Statement {
	var bound, free []string
	for _, action := range slices.Compact(slices.Sorted(slices.Values(actions))) {
		if takesContext(action) {
			bound = append(bound, action)
		} else {
			free = append(free, action)
		}
	}
	if len(pairs) == 0 {
		bound, free = slices.Sorted(slices.Values(append(bound, free...))), nil
	}
	var statements []Statement
	if len(bound) > 0 {
		statements = append(statements, Statement{Sid: sid, Effect: "Allow", Action: oneOrList(bound), Resource: oneOrList(resources), Condition: onContext(pairs)})
	}
	if len(free) > 0 {
		statements = append(statements, Statement{Sid: sid + "Look", Effect: "Allow", Action: oneOrList(free), Resource: oneOrList(resources)})
	}
	return statements
}
