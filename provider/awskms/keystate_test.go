package awskms_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// Every state in AWS's table (AWS KMS Developer Guide, "Key states of AWS KMS keys"), at boot and
// at work.
func TestKeyStates(t *testing.T) {
	states := map[string]struct {
		want error
		says string
	}{
		"Enabled":                {nil, ""},
		"Updating":               {nil, ""},
		"Disabled":               {provider.ErrKeyDisabled, "enable it"},
		"Creating":               {provider.ErrKeyDisabled, "still being created; use it in a few moments"},
		"PendingImport":          {provider.ErrKeyDisabled, "no key material yet, or it has expired; import it"},
		"Unavailable":            {provider.ErrKeyDisabled, "connect the key store"},
		"PendingDeletion":        {provider.ErrKeyPendingDeletion, "cancel that and enable the key"},
		"PendingReplicaDeletion": {provider.ErrKeyPendingDeletion, "deletion of its replicas"},
		"Melted":                 {provider.ErrKeyDisabled, `in state "Melted"`},
	}
	for state, c := range states {
		t.Run(string(state), func(t *testing.T) {
			server := kmstest.NewServer(t)
			key := server.CreateKey(kmstest.Key{MultiRegion: true})
			working := later(t, server, key.ARN)
			made, err := working.GenerateDataKey(t.Context(), nil)
			require.NoError(t, err)
			defer made.Close()
			if state == "Melted" {
				server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: kmstest.Answer(func(members map[string]any) {
					members["KeyMetadata"].(map[string]any)["KeyState"] = string(state)
				})})
			} else {
				server.SetState(key.ARN, state)
			}

			_, boot := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
			info, err := working.GetKeyInfo(t.Context(), "")
			require.NoError(t, err)
			require.ErrorIs(t, info.Err, c.want)
			require.Equal(t, string(state), info.Metadata["key_state"])
			if c.want == nil {
				require.NoError(t, boot)
			} else {
				require.ErrorIs(t, boot, c.want)
				require.ErrorContains(t, boot, c.says)
				requireOneSentinel(t, boot)
			}
			if state == "Melted" {
				return
			}
			_, err = working.GenerateDataKey(t.Context(), nil)
			_, atWork := working.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
			for _, err := range []error{err, atWork} {
				if c.want == nil {
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, c.want)
				requireOneSentinel(t, err)
				// What Decrypt answers tells a replica's deletion from the key's only by its state.
				if state != "PendingReplicaDeletion" && state != "Disabled" {
					require.ErrorContains(t, err, c.says)
				}
			}
		})
	}
}

// What a KMSInvalidStateException says in words that are not known.
func TestAnInvalidStateInOtherWords(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := later(t, server, key.ARN)
	for message, want := range map[string]error{
		"key is pending replica deletion.": provider.ErrKeyPendingDeletion,
		"The request was rejected.":        provider.ErrKeyDisabled,
	} {
		server.Heal()
		server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: kmstest.Error("KMSInvalidStateException", message)})
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, want)
		requireOneSentinel(t, err)
	}
}

// Key specs and usages: what can wrap data keys is taken, what stand-ins of KMS leave out is no
// fault, and the rest says what it is.
func TestKeySpecs(t *testing.T) {
	server := kmstest.NewServer(t)
	for spec, usage := range map[string]string{"SYMMETRIC_DEFAULT": "", "RSA_2048": "", "RSA_3072": "", "RSA_4096": ""} {
		key := server.CreateKey(kmstest.Key{Spec: spec, Usage: usage})
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
		require.NoError(t, err, spec)
	}
	for spec, usage := range map[string]string{"RSA_2048": "SIGN_VERIFY", "ECC_NIST_P256": "SIGN_VERIFY", "HMAC_256": "GENERATE_VERIFY_MAC"} {
		key := server.CreateKey(kmstest.Key{Spec: spec, Usage: usage})
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
		require.ErrorIs(t, err, provider.ErrKeyUsage, spec)
		require.ErrorContains(t, err, "usage "+usage+", spec "+spec)
	}

	server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: kmstest.Answer(func(members map[string]any) {
		delete(members["KeyMetadata"].(map[string]any), "KeyUsage")
	})})
	for spec, want := range map[string]error{"SYMMETRIC_DEFAULT": nil, "RSA_2048": provider.ErrKeyUsage} {
		key := server.CreateKey(kmstest.Key{Spec: spec})
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ID, Client: newClient(t, server.URL, 1)})
		require.ErrorIs(t, err, want, spec)
	}
}
