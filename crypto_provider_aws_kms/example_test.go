package crypto_provider_aws_kms_test

import (
	"context"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"
)

// This is the bootstrap of a Piko application, as Piko documents it. It does not run here, since it
// asks AWS for the key.
func Example() {
	ctx := context.Background()
	kmsProvider, err := crypto_provider_aws_kms.NewProvider(ctx, crypto_provider_aws_kms.Config{KeyID: "alias/app-data", Region: "eu-west-1"})
	if err != nil {
		panic(err)
	}
	ssr := piko.New(
		piko.WithCryptoProvider("kms", kmsProvider),
		piko.WithDefaultCryptoProvider("kms"),
	)
	_ = ssr // ssr.Run(piko.RunModeProd)
}
