package awslog_test

import (
	"bytes"
	"log/slog"
	"os"
	"testing"

	"github.com/aws/smithy-go/logging"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/awslog"
)

func TestWhatTheSDKLogsGoesToSlog(t *testing.T) {
	var text bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
		Level:       slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return map[bool]slog.Attr{false: a}[a.Key == slog.TimeKey] },
	})))
	made := logging.NewStandardLogger(os.Stderr)
	awslog.Redirect(made)
	for _, logger := range []logging.Logger{awslog.Logger, made} {
		logger.Logf(logging.Warn, "%d attempts", 3)
		logger.Logf(logging.Debug, "a request")
		logger.Logf("", "of no kind")
	}
	const each = "level=WARN msg=\"3 attempts\"\nlevel=DEBUG msg=\"a request\"\nlevel=WARN msg=\"of no kind\"\n"
	require.Equal(t, each+each, text.String())
	awslog.Redirect(logging.Nop{}) // another's own is left alone
}
