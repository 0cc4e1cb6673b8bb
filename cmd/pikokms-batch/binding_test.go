package main_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
)

// TestBinding works on objects that are bound to no name, to their own and to another one, under
// both keys. Only rewrap binds objects, only authentic ones, and only if the setting allows it.
func TestBinding(t *testing.T) {
	b := newBucketOf(t, emulator.Moto(t), true)
	kms := kmstest.NewServer(t)
	oldURL, newURL := newKEY(kms), newKEY(kms)
	settings := map[string]string{"PIKOKMS_KEY": newURL, "PIKOKMS_OLD_KEYS": oldURL, "PIKOKMS_BIND_OBJECT_NAMES": boundName, "PIKOKMS_JOB": "rewrap"}
	strict, _ := start(t, bootstrap(t), b.endpoint, settings)
	settings["PIKOKMS_BIND_UNBOUND"] = "true"
	binding, _ := start(t, bootstrap(t), b.endpoint, settings)

	content := bytes.Repeat([]byte("compressible "), 10_000)
	for name, keyURL := range map[string]string{"old": oldURL, "new": newURL} {
		unbound, bound := b.host(t, keyURL), b.host(t, keyURL, pikokms.BindObjectName(boundName))
		compressing := b.host(t, keyURL, pikokms.WithEnabledTransformers("zstd"))
		require.NoError(t, unbound.Put(t.Context(), name+" unbound", bytes.NewReader(content)))
		require.NoError(t, compressing.Put(t.Context(), name+" compressed", bytes.NewReader(content)))
		require.NoError(t, bound.Put(t.Context(), name+" bound", bytes.NewReader(content)))
		moved, _ := b.get(t, name+" bound", "")
		b.mustPut(t, name+" moved", moved)
		broken, _ := b.get(t, name+" unbound", "")
		broken[len(broken)-20] ^= 1
		b.mustPut(t, name+" broken", broken)
	}
	ask := func(name, job, code, reason string) {
		t.Helper()
		sandbox := strict
		if job == "bind" {
			sandbox, job = binding, "rewrap"
		}
		result := invoke(t, sandbox, request2(map[string]string{"job": job}, task{bucket: b.name, key: name}), minute)[0]
		require.Equal(t, code, result.ResultCode, "%s of %q: %s", job, name, result.ResultString)
		require.Contains(t, result.ResultString, reason, "%s of %q", job, name)
	}
	for _, name := range []string{"new unbound", "new compressed"} {
		ask(name, "encrypt", "PermanentFailure", "bound to no name; the job rewrap binds it, with PIKOKMS_BIND_UNBOUND")
	}
	for _, name := range []string{"old unbound", "new unbound", "old compressed", "new compressed", "old moved", "new moved"} {
		before, _ := b.get(t, name, "")
		ask(name, "verify", "PermanentFailure", "the job rewrap binds it")
		ask(name, "rewrap", "PermanentFailure", "set PIKOKMS_BIND_UNBOUND=true")
		after, _ := b.get(t, name, "")
		require.Equal(t, before, after, name)
	}
	for _, name := range []string{"old moved", "new moved", "old broken", "new broken"} {
		before, _ := b.get(t, name, "")
		ask(name, "bind", "PermanentFailure", "")
		after, _ := b.get(t, name, "")
		require.Equal(t, before, after, name)
	}
	host := b.host(t, newURL, pikokms.BindObjectName(boundName))
	for _, name := range []string{"old unbound", "new unbound", "old compressed", "new compressed"} {
		ask(name, "bind", "Succeeded", "and bound to its name")
		ask(name, "verify", "Succeeded", "verified")
		require.Equal(t, content, read(t, host, name))
		stored, _ := b.get(t, name, "")
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		_, compressed := h.EncryptionContext[pikokms.PairTransformers]
		require.Equal(t, len(name) > len("new unbound"), compressed, "it stays compressed: %v", h.EncryptionContext)
		_, err = b.host(t, newURL).Get(t.Context(), name)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed, "it takes its name to be read")
		b.mustPut(t, "copy of "+name, stored)
		_, err = host.Get(t.Context(), "copy of "+name)
		require.ErrorIs(t, err, provider.ErrContextMismatch)
	}
	ask("old bound", "bind", "Succeeded", "rewrapped")

	// An object that is bound already is left alone, which takes one call.
	for _, job := range []string{"bind", "rewrap", "encrypt"} {
		for _, name := range []string{"new bound", "old bound", "new unbound"} {
			calls := kms.Calls("")
			ask(name, job, "Succeeded", "already")
			require.Equal(t, 1, kms.Calls("")-calls)
		}
	}
}
