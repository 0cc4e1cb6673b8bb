module piko.sh/pikokms/pikostorage

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	piko.sh/piko v0.0.0
	piko.sh/pikokms v0.0.0
)

replace (
	piko.sh/piko => ../internal/pikocontract
	piko.sh/pikokms => ..
)
