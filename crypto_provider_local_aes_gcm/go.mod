module piko.sh/piko/wdk/crypto/pikokms/crypto_provider_local_aes_gcm

go 1.26.0

toolchain go1.26.11

require (
	github.com/stretchr/testify v1.12.1
	piko.sh/piko v0.0.0-alpha.20
	piko.sh/pikokms v0.0.0
)

require (
	github.com/awnumar/memcall v0.4.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace piko.sh/piko => ../internal/pikocontract

replace piko.sh/pikokms => ..
