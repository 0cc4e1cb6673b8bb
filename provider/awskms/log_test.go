package awskms

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/aws/smithy-go/logging"
	"github.com/stretchr/testify/require"
)

// The AWS SDK would write lines on standard error, and a program that logs JSON could not tell them
// from its own.
func TestTheSDKLogsToSlog(t *testing.T) {
	c := &Config{Region: "eu-west-1"}
	client, err := c.newClient(t.Context(), c.Region)
	require.NoError(t, err)
	var text bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewJSONHandler(&text, nil)))
	client.Options().Logger.Logf(logging.Warn, "%d attempts", 3)
	client.Options().Logger.Logf(logging.Debug, "a request")
	client.Options().Logger.Logf("", "of no kind")
	require.Regexp(t, `^{"time":"[^"]+","level":"WARN","msg":"3 attempts"}\n{"time":"[^"]+","level":"WARN","msg":"of no kind"}\n$`, text.String())
}
