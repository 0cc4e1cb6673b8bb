package gcpkmstest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type key struct {
	name     string
	purpose  kmspb.CryptoKey_CryptoKeyPurpose
	level    kmspb.ProtectionLevel
	created  *timestamppb.Timestamp
	primary  int // its number
	versions []version
}

type version struct {
	material []byte
	state    kmspb.CryptoKeyVersion_CryptoKeyVersionState
	created  *timestamppb.Timestamp
}

func (k *key) rotate() {
	material := make([]byte, 32)
	_, _ = rand.Read(material) // never fails
	k.versions = append(k.versions, version{material, kmspb.CryptoKeyVersion_ENABLED, timestamppb.Now()})
	k.primary = len(k.versions)
}

func (k *key) versionName(number int) string {
	return fmt.Sprintf("%s/cryptoKeyVersions/%d", k.name, number)
}

// usable returns the AEAD of a version, or Cloud KMS's error.
func (k *key) usable(number int) (cipher.AEAD, error) {
	v := k.versions[number-1]
	if v.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is not enabled, current state is: %v.", k.versionName(number), v.state)
	}
	block, err := aes.NewCipher(v.material)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// find returns a key for encryption. The caller holds the lock.
func (s *Server) find(name string) (*key, error) {
	k := s.keys[name]
	if k == nil {
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	if k.purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return nil, status.Errorf(codes.FailedPrecondition, "%s: the purpose is %v, which this method does not take", name, k.purpose)
	}
	return k, nil
}

// GetCryptoKey implements kmspb.KeyManagementServiceServer.
func (s *methods) GetCryptoKey(_ context.Context, request *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[request.GetName()]
	if k == nil {
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", request.GetName())
	}
	const algorithm = kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION
	described := &kmspb.CryptoKey{
		Name: k.name, Purpose: k.purpose, CreateTime: k.created,
		VersionTemplate: &kmspb.CryptoKeyVersionTemplate{Algorithm: algorithm, ProtectionLevel: k.level},
	}
	v := k.versions[k.primary-1]
	described.Primary = &kmspb.CryptoKeyVersion{
		Name: k.versionName(k.primary), State: v.state, Algorithm: algorithm, ProtectionLevel: k.level, CreateTime: v.created,
	}
	if v.state == kmspb.CryptoKeyVersion_DESTROY_SCHEDULED {
		described.Primary.DestroyTime = timestamppb.Now()
	}
	return described, nil
}

// Encrypt implements kmspb.KeyManagementServiceServer.
func (s *methods) Encrypt(_ context.Context, request *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(request.GetName())
	if err != nil {
		return nil, err
	}
	additional := request.GetAdditionalAuthenticatedData()
	if err := check("plaintext", request.GetPlaintext(), request.GetPlaintextCrc32C()); err != nil {
		return nil, err
	}
	if err := check("additional_authenticated_data", additional, request.GetAdditionalAuthenticatedDataCrc32C()); err != nil {
		return nil, err
	}
	if err := k.checkSizes(len(request.GetPlaintext()), len(additional)); err != nil {
		return nil, err
	}
	aead, err := k.usable(k.primary)
	if err != nil {
		return nil, err
	}
	sealed := aead.Seal(binary.BigEndian.AppendUint32(nil, uint32(k.primary)), nil, request.GetPlaintext(), additional)
	return &kmspb.EncryptResponse{
		Name:                    k.versionName(k.primary),
		Ciphertext:              sealed,
		CiphertextCrc32C:        sum(sealed),
		VerifiedPlaintextCrc32C: request.GetPlaintextCrc32C() != nil,
		VerifiedAdditionalAuthenticatedDataCrc32C: request.GetAdditionalAuthenticatedDataCrc32C() != nil,
		ProtectionLevel: k.level,
	}, nil
}

// Decrypt implements kmspb.KeyManagementServiceServer.
func (s *methods) Decrypt(_ context.Context, request *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(request.GetName())
	if err != nil {
		return nil, err
	}
	ciphertext, additional := request.GetCiphertext(), request.GetAdditionalAuthenticatedData()
	if err := check("ciphertext", ciphertext, request.GetCiphertextCrc32C()); err != nil {
		return nil, err
	}
	if err := check("additional_authenticated_data", additional, request.GetAdditionalAuthenticatedDataCrc32C()); err != nil {
		return nil, err
	}
	// Cloud KMS says the same of a wrong key, wrong additional data and a changed ciphertext.
	invalid := status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
	if len(ciphertext) < 4 {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	}
	number := binary.BigEndian.Uint32(ciphertext)
	if number == 0 || uint64(number) > uint64(len(k.versions)) {
		return nil, invalid
	}
	aead, err := k.usable(int(number))
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, ciphertext[4:], additional)
	if err != nil {
		return nil, invalid
	}
	return &kmspb.DecryptResponse{Plaintext: plaintext, PlaintextCrc32C: sum(plaintext), UsedPrimary: int(number) == k.primary, ProtectionLevel: k.level}, nil
}

// checkSizes checks the limits of Cloud KMS (Cloud KMS REST reference, cryptoKeys.encrypt).
func (k *key) checkSizes(plaintext, additional int) error {
	const software, hsm = 64 << 10, 8 << 10
	if k.level == kmspb.ProtectionLevel_HSM && plaintext+additional > hsm {
		return status.Errorf(codes.InvalidArgument, "The plaintext and additional_authenticated_data have %d bytes, the maximum is %d.", plaintext+additional, hsm)
	}
	if plaintext > software || additional > software {
		return status.Errorf(codes.InvalidArgument, "The plaintext has %d bytes, the additional_authenticated_data %d; the maximum is %d.", plaintext, additional, software)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// check compares a field with its checksum, if there is one.
func check(field string, b []byte, got *wrapperspb.Int64Value) error {
	if got != nil && got.GetValue() != sum(b).GetValue() {
		return status.Error(codes.InvalidArgument, strings.ReplaceAll("The checksum in field FIELD_crc32c did not match the data in field FIELD.", "FIELD", field))
	}
	return nil
}
