// Package awslog stands where the command still looks for [awskms.Logger].
package awslog

import "piko.sh/pikokms/provider/awskms"

// Logger is awskms.Logger.
var Logger = awskms.Logger
