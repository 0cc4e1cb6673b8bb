package awskms

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/aws/smithy-go/logging"
)

// Logger sends what the AWS SDK logs to log/slog, to the logger that is slog's default at that
// time. Providers of this module log to it. The SDK by itself writes lines of text to standard
// error. To use it for another client of AWS, pass it to config.WithLogger.
var Logger logging.Logger = logging.LoggerFunc(func(kind logging.Classification, format string, values ...any) {
	level := slog.LevelWarn
	if kind == logging.Debug {
		level = slog.LevelDebug
	}
	slog.Log(context.Background(), level, fmt.Sprintf(format, values...))
})
