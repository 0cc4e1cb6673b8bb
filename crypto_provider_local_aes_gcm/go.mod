module piko.sh/piko/wdk/crypto/pikokms/crypto_provider_local_aes_gcm

go 1.26.0

toolchain go1.26.11

require (
	piko.sh/piko v0.0.0
	piko.sh/pikokms v0.0.0
)

require (
	github.com/awnumar/memcall v0.4.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	piko.sh/piko => ../internal/pikocontract
	piko.sh/pikokms => ..
)
