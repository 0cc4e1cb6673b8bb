// Package awslog sends what the AWS SDK logs to log/slog. On its own the SDK writes lines of text
// on standard error, whatever a program makes of its logs.
package awslog

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"strings"

	"github.com/aws/smithy-go/logging"
)

// Logger logs to the logger that is slog's default at that time.
var Logger logging.Logger = logging.LoggerFunc(func(kind logging.Classification, format string, values ...any) {
	level := slog.LevelWarn
	if kind == logging.Debug {
		level = slog.LevelDebug
	}
	slog.Log(context.Background(), level, fmt.Sprintf(format, values...))
})

// Redirect sends what the SDK's own logger logs to Logger, for a client that others have made. No
// request may be under way.
func Redirect(logger logging.Logger) {
	if standard, ok := logger.(*logging.StandardLogger); ok {
		standard.Logger = log.New(lines{}, "", 0)
	}
}

// lines takes the lines of a logging.StandardLogger.
type lines struct{}

// Write implements io.Writer.
func (lines) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	kind, rest, _ := strings.Cut(text, " ")
	switch kind := logging.Classification(kind); kind {
	case logging.Warn, logging.Debug:
		Logger.Logf(kind, "%s", rest)
	default:
		Logger.Logf(logging.Warn, "%s", text)
	}
	return len(line), nil
}
