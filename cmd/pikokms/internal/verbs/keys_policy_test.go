package verbs

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/kmstest"
)

// TestPoliciesOfMixedKeys runs commands with several kinds of keys against a KMS that allows what
// the printed policy allows. The commands succeed, and fail without any one of the policy's
// actions.
func TestPoliciesOfMixedKeys(t *testing.T) {
	startsManyProcesses(t)
	kms := enforce(t)
	one, two := kms.CreateKey(kmstest.Key{Alias: "alias/one"}), kms.CreateKey(kmstest.Key{Alias: "alias/two"})
	rsa := kms.CreateKey(kmstest.Key{Alias: "alias/rsa", Spec: "RSA_2048", Usage: "ENCRYPT_DECRYPT"})
	url := func(k kmstest.Key) string { return "awskms:///" + k.ARN + "?endpoint=" + kms.URL }
	alias := func(name string) string {
		return "awskms://alias/" + name + "?region=" + one.Region + "&endpoint=" + kms.URL
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	recovery := "local:" + filepath.ToSlash(at("recovery.key"))
	_, stderr, _, err := execute(t, "keygen", "-o", at("recovery.key"))
	require.NoError(t, err, stderr)
	require.NoError(t, os.WriteFile(at("in"), []byte("hello\n"), 0o600))
	ec := kms.CreateKey(kmstest.Key{Alias: "alias/ec", Spec: "ECC_NIST_P256", Usage: "KEY_AGREEMENT"})
	other := kms.CreateKey(kmstest.Key{Spec: "ECC_NIST_P256", Usage: "KEY_AGREEMENT"})
	all := []admin.Statement{{Action: "kms:*", Resource: []string{one.ARN, two.ARN, rsa.ARN, ec.ARN, other.ARN}}}
	kms.set(all)
	client := awskms.New(awskms.Options{Region: one.Region, BaseEndpoint: &kms.URL, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	publicOf := func(k kmstest.Key, name string) string {
		out, err := client.GetPublicKey(t.Context(), &awskms.GetPublicKeyInput{KeyId: &k.ARN})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at(name), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: out.PublicKey}), 0o600))
		return filepath.ToSlash(at(name))
	}
	rsaFile, ecFile := url(rsa)+"&public-key="+publicOf(rsa, "rsa.pem"), url(ec)+"&public-key="+publicOf(ec, "ec.pem")
	peer := url(ec) + "&peer=" + publicOf(other, "peer.pem")
	for name, keys := range map[string][]string{"one.enc": {"-k", url(one)}, "rsa.enc": {"-k", url(rsa)}, "ec.enc": {"-k", url(ec)}, "peer.enc": {"-k", peer}} {
		_, stderr, _, err := execute(t, append([]string{"encrypt", "-c", "tenant=42", "-o", at(name), at("in")}, keys...)...)
		require.NoError(t, err, stderr)
	}
	join := func(words ...any) (all []string) {
		for _, w := range words {
			switch w := w.(type) {
			case string:
				all = append(all, w)
			case []string:
				all = append(all, w...)
			}
		}
		return all
	}
	withRecovery := []string{"-k", url(one), "-k", recovery}
	mixed := []string{"-k", url(one), "-k", url(rsa)}
	mixedAliases := []string{"-k", alias("rsa"), "-k", alias("two")}
	toRSA := []string{"-k", url(one), "--to", url(rsa), "--to", recovery}
	fromRSA := []string{"-k", alias("rsa"), "--to", url(two)}
	for name, test := range map[string]struct {
		policy   []string
		commands [][]string
		says     bool // whether the policy has a condition on the encryption context
	}{
		"a writer with a recovery key": {
			join("--role", "writer", "-c", "tenant=42", withRecovery),
			[][]string{join("encrypt", withRecovery, "-c", "tenant=42", at("in"))}, true,
		},
		"a reader with a recovery key": {
			join("--role", "reader", withRecovery),
			[][]string{{"verify", "-k", url(one), at("one.enc")}}, false,
		},
		"a writer under an AES and an RSA key": {
			join("--role", "writer", "-c", "tenant=42", "--rsa="+url(rsa), mixed),
			[][]string{join("encrypt", mixed, "-c", "tenant=42", at("in"))}, true,
		},
		"a reader of an AES and an RSA key": {
			join("--role", "reader", "-c", "tenant=42", "--rsa="+url(rsa), mixed),
			[][]string{join("verify", mixed, at("one.enc")), join("verify", mixed, at("rsa.enc"))}, false,
		},
		"a writer under aliases of an AES and an RSA key": {
			join("--role", "writer", mixedAliases),
			[][]string{join("encrypt", mixedAliases, "-c", "tenant=42", at("in"))}, false,
		},
		"a reader of an RSA key by an alias": {
			[]string{"--role", "reader", "-k", alias("rsa")},
			[][]string{{"verify", "-k", alias("rsa"), at("rsa.enc")}}, false,
		},
		"a writer under an RSA key by an alias": {
			[]string{"--role", "writer", "-k", alias("rsa")},
			[][]string{{"encrypt", "-k", alias("rsa"), at("in")}}, false,
		},
		"a reader of an RSA key whose public half is in a file": {
			[]string{"--role", "reader", "-k", rsaFile},
			[][]string{{"verify", "-k", rsaFile, at("rsa.enc")}}, false,
		},
		"a reader of an EC key by an alias": {
			[]string{"--role", "reader", "-k", alias("ec")},
			[][]string{{"verify", "-k", alias("ec"), at("ec.enc")}}, false,
		},
		"a reader of an EC key whose public half is in a file": {
			[]string{"--role", "reader", "-k", ecFile},
			[][]string{{"verify", "-k", ecFile, at("ec.enc")}}, false,
		},
		"a writer under an EC key by an alias": {
			[]string{"--role", "writer", "-k", alias("ec")},
			[][]string{{"encrypt", "-k", alias("ec"), at("in")}}, false,
		},
		"a writer under an EC key with a peer": {
			[]string{"--role", "writer", "-k", peer},
			[][]string{{"encrypt", "-k", peer, at("in")}}, false,
		},
		"a reader of an EC key with a peer": {
			[]string{"--role", "reader", "-k", peer},
			[][]string{{"verify", "-k", peer, at("peer.enc")}}, false,
		},
		"a rewrapper to an EC key": {
			[]string{"--role", "rewrapper", "-k", url(one), "--to", alias("ec")},
			[][]string{{"rewrap", "-k", url(one), "--to", alias("ec"), "-f", "-o", at("new"), at("one.enc")}}, false,
		},
		"a rewrapper to an RSA and a recovery key": {
			join("--role", "rewrapper", "-c", "tenant=42", "--rsa="+url(rsa), toRSA),
			[][]string{join("rewrap", toRSA, "-c", "tenant=42", "-f", "-o", at("new"), at("one.enc"))}, false,
		},
		"a rewrapper from an RSA key by an alias": {
			join("--role", "rewrapper", "-c", "tenant=42", fromRSA),
			[][]string{join("rewrap", fromRSA, "-c", "tenant=42", "-f", "-o", at("new"), at("rsa.enc"))}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			kms.set(all) // to ask for an alias's key
			statements := policyOf(t, test.policy...)
			run := func() (said string, failed error) {
				for _, command := range test.commands {
					if _, stderr, _, err := execute(t, command...); err != nil {
						return stderr, err
					}
				}
				return "", nil
			}
			kms.set(statements)
			said, err := run()
			require.NoError(t, err, "%s with %v", said, statements)
			if test.says {
				other := append([]string{}, test.commands[0]...)
				for i, word := range other {
					if word == "tenant=42" {
						other[i] = "tenant=43"
					}
				}
				_, _, _, err := execute(t, other...)
				require.Error(t, err)
			}
			for i, s := range statements {
				for _, action := range texts(s.Action) {
					kms.set(append(append(append([]admin.Statement{}, statements[:i]...), without([]admin.Statement{s}, action)...), statements[i+1:]...))
					_, err := run()
					require.Error(t, err, "without %s of %v", action, s.Resource)
				}
			}
		})
	}

	_, stderr, _, err = execute(t, "keys", "policy", "--role", "writer", "-k", url(one), "--rsa="+url(two))
	require.Error(t, err)
	require.Contains(t, stderr, "is none of the KEYs")
	_, stderr, _, err = execute(t, "keys", "policy", "--role", "writer", "-k", recovery, "-k", recovery+"?name=other")
	require.Error(t, err)
	require.Contains(t, stderr, "none of the KEYs is one of AWS KMS")
	for _, file := range []string{rsaFile, ecFile} {
		_, stderr, _, err = execute(t, "keys", "policy", "--role", "writer", "-k", file)
		require.Error(t, err)
		require.Contains(t, stderr, "whoever has the public key can encrypt")
	}
	_, stderr, _, err = execute(t, "keys", "policy", "--role", "writer", "-k", url(ec)+"&public-key="+filepath.ToSlash(at("in")))
	require.Error(t, err)
	require.Contains(t, stderr, "no public key")
	key := policyOf(t, "--role", "writer", "-k", url(one), "-k", recovery, "--principal", "arn:aws:iam::111122223333:role/backup")
	require.Equal(t, "kms:Encrypt", key[1].Action)
}
