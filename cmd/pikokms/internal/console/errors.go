package console

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/s3storage"
)

// usageError is a mistake on the command line.
type usageError struct{ error }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.error }

// Usage marks an error as a mistake on the command line.
func Usage(err error) error { return usageError{err} }

// IsUsage reports whether an error is a mistake on the command line.
func IsUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// limitFlags are the flags of decrypt that set the limits of package header.
var limitFlags = map[string]string{"MaxPairs": "--max-pairs", "MaxEncryptedDataKeys": "--max-keys", "MaxAttempts": "--max-attempts"}

// Explain returns an error's text in one line, with the flag that would have helped.
func Explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	// Who encrypts and decrypts need not know that a transformer does it.
	text = strings.ReplaceAll(text, "transformer crypto-service: ", "")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // an object's name could steer a terminal
			return unicode.ReplacementChar
		}
		return r
	}, text)
	switch {
	case errors.Is(err, message.ErrCommitmentPolicy):
		text += "; --commitment-policy sets the policy"
	case errors.Is(err, message.ErrPikoV2):
		text += "; --allow-piko-v2 sets it"
	case errors.Is(err, branchkey.ErrNoTable):
		text += "; 'pikokms branch-keys create --table' makes it"
	case errors.Is(err, provider.ErrUntrustedKey):
		text += "; -k says which keys to use"
	case isSSOExpired(err):
		text += "; run 'aws sso login', with --profile if the URL has a profile"
	case errors.Is(err, s3storage.ErrNotKept):
		text += "; --allow-loss KIND allows that"
	case errors.Is(err, s3storage.ErrNoConditions):
		text += "; if nothing else writes to the bucket now, --sole-writer does without"
	}
	if limit, ok := errors.AsType[*header.LimitError](err); ok {
		text = strings.ReplaceAll(text, fmt.Sprintf(" (%s sets the limit)", limit.Option), "")
		if flag := limitFlags[limit.Limit]; flag != "" && limit.Option != "" {
			text += "; " + flag + " sets the limit"
		}
	}
	return text
}

// isSSOExpired reports whether the cause of an error is that a login of IAM Identity Center has
// ended, or that there is none. The AWS SDK (v1.47.8) has a type for one of the cases, and texts
// for the others.
func isSSOExpired(err error) bool {
	_, expired := errors.AsType[*ssocreds.InvalidTokenError](err)
	return expired || strings.Contains(err.Error(), "cached SSO token") || strings.Contains(err.Error(), "the SSO session has expired")
}

// fieldsError is an error with attributes for programs.
type fieldsError struct {
	error
	fields []any
}

// Unwrap returns the error.
func (t *fieldsError) Unwrap() error { return t.error }

// WithFields returns an error with attributes for programs.
func WithFields(err error, fields []any) error { return &fieldsError{err, fields} }

// FieldsOf returns the attributes of an error for programs.
func FieldsOf(err error) []any {
	if t, ok := errors.AsType[*fieldsError](err); ok {
		return t.fields
	}
	return nil
}
