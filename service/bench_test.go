package service_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// An open breaker refuses without asking anyone.
func BenchmarkOpenBreaker(b *testing.B) {
	r := newRemote(b, 1)
	s := service.New(r, service.Config{})
	r.fail(provider.ErrProviderUnavailable)
	for range service.Failures {
		_ = entries["Encrypt"](b.Context(), s, nil)
	}
	for b.Loop() {
		if err := entries["GenerateDataKey"](b.Context(), s, nil); !errors.Is(err, service.ErrBreakerOpen) {
			b.Fatal(err)
		}
	}
}

// smallObjects returns what encrypts an object of 1 KiB, and what decrypts it, under a cached data
// key: from memory to memory.
func smallObjects(t testing.TB) (encrypt, decrypt func() error) {
	s := service.New(newRemote(t, 1), service.Config{Cache: &service.CacheLimits{MaxMessages: 1 << 40}})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	e, d := &message.Encrypter{Keyring: s}, &message.Decrypter{Keyrings: []provider.Unwrapper{s}}
	ctx, plaintext := t.Context(), make([]byte, 1024)
	var src bytes.Reader
	var stored, opened bytes.Buffer
	encrypt = func() error {
		src.Reset(plaintext)
		stored.Reset()
		r, err := e.NewReader(ctx, &src, nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&stored)
		return err
	}
	decrypt = func() error {
		src.Reset(stored.Bytes())
		opened.Reset()
		r, err := d.NewReader(ctx, &src, nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&opened)
		return err
	}
	require.NoError(t, encrypt())
	require.NoError(t, decrypt())
	require.Equal(t, plaintext, opened.Bytes())
	return encrypt, decrypt
}

// A small object under a cached data key.
func BenchmarkCachedDataKey(b *testing.B) {
	encrypt, decrypt := smallObjects(b)
	for name, run := range map[string]func() error{"Encrypt": encrypt, "Decrypt": decrypt} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
		})
	}
}
