package dropin

import (
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/provider"
)

// checkContext refuses an encryption context with a reserved key. The error holds
// provider.ErrContextMismatch.
func checkContext(encryptionContext map[string]string) error {
	if err := provider.CheckStated(encryptionContext); err != nil {
		return fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	return nil
}

// Names lists errors of package provider, each with Piko's name of the same error.
type Names []struct{ Ours, Pikos error }

// Translate returns an error with the same text that holds Piko's error, too.
func (n Names) Translate(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	t := &translated{err: err}
	for _, name := range n {
		if errors.Is(err, name.Ours) {
			t.pikos = append(t.pikos, name.Pikos)
		}
	}
	return t
}

type translated struct {
	err   error
	pikos []error
}

func (t *translated) Error() string   { return t.err.Error() }
func (t *translated) Unwrap() []error { return append([]error{t.err}, t.pikos...) }
