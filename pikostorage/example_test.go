package pikostorage_test

import (
	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/pikostorage"
)

// kms is the provider of crypto_provider_aws_kms or of crypto_provider_local_aes_gcm. disk and
// bucket are providers of Piko.
func ExampleEncrypt() {
	start := func(kms crypto.EncryptionProvider, disk, bucket storage.ProviderPort) *piko.SSRServer {
		return piko.New(
			piko.WithCryptoProvider("kms", kms),
			piko.WithDefaultCryptoProvider("kms"),
			piko.WithStorageProvider("default", pikostorage.Encrypt(disk, kms)),
			piko.WithStorageProvider("media", pikostorage.Encrypt(bucket, kms, pikokms.BindObjectName("media"))),
		)
	}
	_ = start
}

// EncryptAll stands last, and needs no change of the providers before it.
func ExampleEncryptAll() {
	start := func(kms crypto.EncryptionProvider, disk, bucket storage.ProviderPort) *piko.SSRServer {
		return piko.New(
			piko.WithCryptoProvider("kms", kms),
			piko.WithDefaultCryptoProvider("kms"),
			piko.WithStorageProvider("default", disk),
			piko.WithStorageProvider("media", bucket),
			pikostorage.EncryptAll(kms),
		)
	}
	_ = start
}
