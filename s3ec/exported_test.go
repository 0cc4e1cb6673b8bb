package s3ec_test

import (
	"testing"

	"piko.sh/pikokms/internal/exported"
)

func TestExported(t *testing.T) { exported.Test(t) }
