package awskms_test

import (
	"bytes"
	"encoding/base64"
	"maps"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/logging"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// answer changes members of the answers of KMS.
func answer(members map[string]any) kmstest.Action {
	return kmstest.Answer(func(all map[string]any) { maps.Copy(all, members) })
}

// Answers are not believed if KMS lies about what it did, or if something on the way changes them.
func TestAKMSThatLiesIsNotBelieved(t *testing.T) {
	server := kmstest.NewServer(t)
	key, other := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	p := later(t, server, key.ARN)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	blob := made.EncryptedKey.Ciphertext
	generate := func() error {
		_, err := p.GenerateDataKey(t.Context(), nil)
		return err
	}
	wrap := func() error {
		_, err := p.WrapDataKey(t.Context(), made.PlaintextKey, nil)
		return err
	}
	encrypt := func() error {
		_, err := envelope.Seal(t.Context(), p, "x", nil)
		return err
	}
	unwrap := func() error {
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
		return err
	}
	decrypt := func() error {
		_, err := envelope.Open(t.Context(), p, base64.StdEncoding.EncodeToString(blob), nil)
		return err
	}
	check := func() error {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
		return err
	}
	cases := 0
	for operation, c := range map[string]struct {
		calls []func() error
		lies  []map[string]any
		want  error
	}{
		"GenerateDataKey": {[]func() error{generate}, []map[string]any{
			{"KeyId": other.ARN},
			{"KeyId": ""},
			{"KeyId": nil},
			{"KeyId": key.ID},
			{"Plaintext": make([]byte, 16)},
			{"Plaintext": make([]byte, 33)},
			{"Plaintext": []byte{}},
			{"Plaintext": nil},
			{"CiphertextBlob": []byte{}},
			{"CiphertextBlob": nil},
			{"CiphertextBlob": make([]byte, 1<<16)}, // a header could not hold it
		}, provider.ErrEncryptionFailed},
		"Encrypt": {[]func() error{wrap, encrypt}, []map[string]any{
			{"KeyId": other.ARN}, {"KeyId": nil}, {"CiphertextBlob": []byte{}}, {"CiphertextBlob": nil}, {"CiphertextBlob": make([]byte, 1<<16)},
		}, provider.ErrEncryptionFailed},
		"Decrypt": {[]func() error{unwrap, decrypt}, []map[string]any{
			{"KeyId": other.ARN}, {"KeyId": ""}, {"KeyId": nil}, {"KeyId": key.ID},
		}, provider.ErrDecryptionFailed},
		"DescribeKey": {[]func() error{check}, []map[string]any{
			{"KeyMetadata": nil},
			{"KeyMetadata": map[string]any{"Arn": other.ARN, "KeyId": key.ID, "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT"}},
			{"KeyMetadata": map[string]any{"KeyId": key.ID, "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT"}},
		}, provider.ErrInvalidKey},
	} {
		for _, lie := range c.lies {
			remove := server.Inject(kmstest.Fault{Operation: operation, Do: answer(lie)})
			for _, call := range c.calls {
				err := call()
				require.ErrorIs(t, err, c.want, "%s %v", operation, lie)
				requireOneSentinel(t, err)
				cases++
			}
			remove()
			for _, call := range c.calls {
				require.NoError(t, call())
			}
		}
	}
	for _, size := range []int{0, 16, 31, 33} {
		remove := server.Inject(kmstest.Fault{Operation: "Decrypt", Do: answer(map[string]any{"Plaintext": make([]byte, size)})})
		require.ErrorIs(t, unwrap(), provider.ErrDecryptionFailed)
		remove()
		cases++
	}
	t.Logf("%d lies", cases)
}

// An ID or an alias does not say whose key it is, but an alias ARN says in which account and
// Region.
func TestADescriptionOfAnotherKeyIsRefused(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store"})
	foreign := server.CreateKey(kmstest.Key{Account: "444455556666"})
	alias := "arn:aws:kms:eu-west-1:" + kmstest.Account + ":alias/store"
	for keyID, arns := range map[string][]string{
		key.ID:        {foreign.ARN, "", "nonsense"},
		alias:         {foreign.ARN, alias, strings.Replace(key.ARN, "eu-west-1", "us-east-1", 1), strings.Replace(key.ARN, "arn:aws:", "arn:aws-cn:", 1)},
		"alias/store": {alias, "", "arn:aws:s3:eu-west-1:1:key/x"},
	} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1)})
		require.NoError(t, err)
		for _, lie := range arns {
			remove := server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: kmstest.Answer(func(members map[string]any) {
				members["KeyMetadata"].(map[string]any)["Arn"] = lie
			})})
			_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1)})
			require.ErrorIs(t, err, provider.ErrInvalidKey, "%s %s", keyID, lie)
			remove()
		}
	}
}

// A KMS that ignores the encryption context, or returns another data key, can't turn this message
// into another one: the header's tag and commitment fail.
func TestAKMSThatIgnoresTheContextMakesNoOtherMessage(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := later(t, server, key.ARN)
	stored := sealed(t, server, key.ARN)
	h, _, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	dataKey, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: h.EncryptedDataKeys[0], Context: h.EncryptionContext, Size: 32})
	require.NoError(t, err)
	defer dataKey.Close()

	changed := bytes.Replace(stored, []byte("42"), []byte("43"), 1)
	server.Inject(kmstest.Fault{Operation: "Decrypt", Do: kmstest.Answer(func(members map[string]any) { members["Plaintext"] = make([]byte, 32) })})
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	_, _, err = d.Decrypt(t.Context(), stored, nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed, "another data key")
	_, _, err = d.Decrypt(t.Context(), changed, nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	require.NoError(t, dataKey.PlaintextKey.WithAccess(func(plain []byte) error {
		lying := kmstest.NewServer(t)
		lying.Inject(kmstest.Fault{Do: kmstest.Body(200, "application/x-amz-json-1.1", `{"KeyId":"`+key.ARN+`","Plaintext":"`+base64.StdEncoding.EncodeToString(plain)+`"}`)})
		d := message.Decrypter{Keyrings: []provider.Unwrapper{later(t, lying, key.ARN)}}
		_, _, err := d.Decrypt(t.Context(), stored, nil)
		require.NoError(t, err)
		_, _, err = d.Decrypt(t.Context(), changed, nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		return nil
	}))
}

// If the AWS SDK logs what KMS answers, the log has no data key, since the SDK gets none.
func TestTheAWSSDKGetsNoDataKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	var log bytes.Buffer
	client := newClient(t, server.URL, 1, func(o *kms.Options) {
		o.ClientLogMode, o.Logger = aws.LogResponseWithBody, logging.NewStandardLogger(&log)
	})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
	require.NoError(t, err)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	got, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
	require.NoError(t, err)
	defer got.Close()
	require.NoError(t, got.PlaintextKey.WithAccess(func(plain []byte) error {
		require.NotContains(t, log.String(), base64.StdEncoding.EncodeToString(plain))
		return nil
	}))
	require.Equal(t, 2, strings.Count(log.String(), `"Plaintext":""`))
	require.Contains(t, log.String(), base64.StdEncoding.EncodeToString(made.EncryptedKey.Ciphertext))
}
