package crypto_provider_aws_kms

import "piko.sh/pikokms/provider"

// Keys returns the provider of package pikokms behind p. Package pikostorage asks for it.
func (p *Provider) Keys() provider.EncryptionProvider { return p.kms }
