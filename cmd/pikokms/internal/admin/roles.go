package admin

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider/awskms"
)

// The roles of those who use keys. An empty role takes all that encrypts and decrypts.
const (
	roleReader    = "reader"
	roleWriter    = "writer"
	roleRewrapper = "rewrapper"
)

var roles = []string{roleReader, roleWriter, roleRewrapper}

func checkRole(role string) error {
	if !slices.Contains(roles, role) {
		return console.Usage(fmt.Errorf("--role %q; known are %s", role, strings.Join(roles, ", ")))
	}
	return nil
}

// actionsOf returns the actions of IAM that a role needs on a symmetric key, except
// kms:DescribeKey. The key is one of --to if isTarget is true, and else one of -k. A key that
// messages are encrypted under alone makes their data keys. Several keys wrap one that is made
// here.
func actionsOf(role string, isTarget bool, keys, targets int) []string {
	wrapping := keys
	if targets > 0 {
		wrapping = targets
	}
	wrap := awskms.ActionGenerateDataKey
	if wrapping > 1 {
		wrap = awskms.ActionEncrypt
	}
	switch {
	case role == roleReader, targets > 0 && !isTarget:
		return []string{awskms.ActionDecrypt}
	case role == roleWriter, isTarget:
		return []string{wrap}
	}
	return []string{awskms.ActionDecrypt, wrap}
}

// rsaActionsOf returns what actionsOf returns for an RSA key. To encrypt under one takes its public
// half, which is in a file or asked for.
func rsaActionsOf(actions []string, hasPublicKey bool) []string {
	var own []string
	for _, action := range actions {
		switch {
		case action == awskms.ActionDecrypt:
			own = append(own, action)
		case !hasPublicKey:
			own = append(own, awskms.ActionDescribeKey, awskms.ActionGetPublicKey)
		}
	}
	return own
}

// ecActionsOf returns what actionsOf returns for an EC key. Both directions take the secret of a key
// agreement, and the key's public half.
func ecActionsOf(hasPublicKey bool) []string {
	if hasPublicKey {
		return []string{awskms.ActionDeriveSharedSecret}
	}
	return []string{awskms.ActionDeriveSharedSecret, awskms.ActionDescribeKey, awskms.ActionGetPublicKey}
}

// breaks returns what does not work without an action.
func breaks(action string, isARN bool) string {
	switch action {
	case awskms.ActionDescribeKey:
		if isARN {
			return "encrypt and rewrap --to, to check the key first, and under an RSA key without public-key= in its URL"
		}
		return "every command, since the key is named by an alias or its ID"
	case awskms.ActionGenerateDataKey:
		return "encrypt -k and rewrap --to, where it is the only key"
	case awskms.ActionEncrypt:
		return "encrypt -k and rewrap --to, where it is one of several keys; short strings in programs"
	case awskms.ActionDecrypt:
		return "decrypt, verify, cat, serve and rewrap"
	case awskms.ActionDeriveSharedSecret:
		return "decrypt, verify, cat, serve and rewrap under an EC key, and encrypt with peer= in its URL"
	case awskms.ActionGetPublicKey:
		return "encrypt -k and rewrap --to without public-key= in its URL"
	case awskms.ActionReEncrypt:
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

// oneOrList returns a list as policies have it: one element stands alone.
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
	return action != awskms.ActionDescribeKey && action != awskms.ActionGetPublicKey && action != awskms.ActionDeriveSharedSecret
}

// allow returns the statements that allow actions on resources. What has an encryption context may
// depend on it.
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
