package azurekeyvault_test

import (
	"context"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/providertest"
)

// secretCredential is a credential whose fields print.
type secretCredential struct{ Secret string }

func (secretCredential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, nil
}

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, azurekeyvault.Config{Key: "orders", Endpoint: "https://user:SECRET@vault.example"}, "SECRET", "orders")
	providertest.Conceals(t, azurekeyvault.Config{Key: "orders", Credential: secretCredential{"SECRET"}}, "SECRET", "orders")
}
