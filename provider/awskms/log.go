package awskms

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/aws/smithy-go/logging"
)

// Logger sends what the AWS SDK logs to log/slog, to the logger that is slog's default at that
// time. Providers of this module log to it. On its own the SDK writes lines of text on standard
// error. Another client of AWS takes it by config.WithLogger.
var Logger logging.Logger = logging.LoggerFunc(func(kind logging.Classification, format string, values ...any) {
	level := slog.LevelWarn
	if kind == logging.Debug {
		level = slog.LevelDebug
	}
	slog.Log(context.Background(), level, fmt.Sprintf(format, values...))
})
