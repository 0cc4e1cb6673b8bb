package crypto_provider_gcp_kms_test

import (
	"context"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto/crypto_provider_gcp_kms"
)

// This is the bootstrap of a Piko application, as Piko documents it. It does not run here, since it
// asks Google for the key.
func Example() {
	ctx := context.Background()
	kmsProvider, err := crypto_provider_gcp_kms.NewProvider(ctx, crypto_provider_gcp_kms.Config{
		ProjectID: "my-project", Location: "europe-west1", KeyRing: "my-ring", KeyName: "app-data",
	})
	if err != nil {
		panic(err)
	}
	ssr := piko.New(
		piko.WithCryptoProvider("kms", kmsProvider),
		piko.WithDefaultCryptoProvider("kms"),
	)
	_ = ssr // ssr.Run(piko.RunModeProd)
}
