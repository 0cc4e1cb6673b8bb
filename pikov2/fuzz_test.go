package pikov2_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

func FuzzSniffAndRead(f *testing.F) {
	for _, name := range []string{"local-0", "local-1", "local-chunks-of-16", "kms-chunks-of-16"} {
		stored := vector(f, name+".bin")
		f.Add(stored)
		f.Add(stored[:len(stored)-3])
		f.Add(append(bytes.Clone(stored), 0, 0, 0, 16))
	}
	f.Add([]byte("\x02\x00\x10\x00\x00{"))
	f.Add(append(streamOf(headerOf(someIV)), 0, 0xa0, 0, 0, 'x'))
	f.Add([]byte("\x02\x05\x78\x00"))

	p := newLocal(f, localKey())
	f.Fuzz(func(t *testing.T, b []byte) {
		require.False(t, pikov2.Sniff(b) && header.Sniff(b), "two formats at once")
		got, err := read(bytes.NewReader(b), p, kms())
		again, againErr := read(iotest.OneByteReader(bytes.NewReader(b)), p, kms())
		require.True(t, bytes.Equal(got, again))
		if err == nil {
			require.NoError(t, againErr)
			require.True(t, pikov2.Sniff(b))
			// The fuzzer can't make a tag: whatever opens is a beginning of the vectors, which all
			// have this plaintext.
			require.True(t, bytes.HasPrefix(pattern(40), got))
			return
		}
		require.EqualError(t, againErr, err.Error())
		known := false
		for _, s := range []error{provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed, provider.ErrUntrustedKey} {
			known = known || errors.Is(err, s)
		}
		require.True(t, known, "%v", err)
	})
}
