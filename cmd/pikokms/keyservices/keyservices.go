// Package keyservices lists the key services whose keys the programs take. It is in the command's
// module, which requires the clients of all clouds.
package keyservices

import (
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/vault"
)

// All returns the key services.
func All() []keyurl.Service {
	return []keyurl.Service{
		awskms.KeyService,
		awskms.DiscoveryKeyService,
		gcpkms.KeyService,
		azurekeyvault.KeyService,
		vault.KeyService,
		branchkey.KeyService,
		local.KeyService,
	}
}
