package branchkey_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// emptyTable answers as DynamoDB does for a table without items.
func emptyTable(w http.ResponseWriter, r *http.Request) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	answer := map[string]string{
		"GetItem": `{}`, "TransactWriteItems": `{}`, "Query": `{"Items":[],"Count":0,"ScannedCount":0}`, "Scan": `{"Items":[],"Count":0,"ScannedCount":0}`,
	}[operation]
	w.Header().Set("X-Amz-Crc32", fmt.Sprint(crc32.ChecksumIEEE([]byte(answer))))
	_, _ = io.WriteString(w, answer)
}

// Whatever answers in place of DynamoDB, the error is ErrProviderUnavailable and names the address.
// It is never taken for an item that is not there, or for one that was written.
func TestWhatAnswersInPlaceOfDynamoDB(t *testing.T) {
	race.SkipShort(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for name, lie := range adversary.Lies {
		for operation, call := range map[string]func(*testing.T, branchkey.Table) error{
			"GetItem": func(t *testing.T, table branchkey.Table) error {
				_, err := table.Get(t.Context(), "x", "branch:ACTIVE")
				if errors.Is(err, provider.ErrKeyNotFound) && !errors.Is(err, provider.ErrProviderUnavailable) {
					return nil // which is what an honest server says
				}
				return err
			},
			"Query": func(t *testing.T, table branchkey.Table) error { return errorOf(table.All(t.Context(), "x")) },
			"Scan":  func(t *testing.T, table branchkey.Table) error { return errorOf(table.Active(t.Context())) },
			"TransactWriteItems": func(t *testing.T, table branchkey.Table) error {
				return table.Write(t.Context(), []branchkey.Write{{Item: item("x", "branch:ACTIVE", "1")}})
			},
		} {
			t.Run(name+", "+operation, func(t *testing.T) {
				t.Parallel()
				liar := adversary.NewLiar(t, http.HandlerFunc(emptyTable))
				timeout := 10 * time.Second // for an answer that comes, on a machine that is busy
				if name == "silence" {
					timeout = time.Second
				}
				table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{
					Table: "keys", TableEndpoint: liar.URL, KMS: awskms.Config{Region: "eu-west-1", MaxRetries: 1, Timeout: timeout},
				})
				require.NoError(t, err)
				liar.Tell(lie)
				err = call(t, table)
				require.ErrorIs(t, err, provider.ErrProviderUnavailable)
				require.ErrorContains(t, err, strings.TrimPrefix(liar.URL, "http://"))
				require.NotErrorIs(t, err, context.DeadlineExceeded, "that is not the caller's")
				require.NotErrorIs(t, err, context.Canceled)
				require.NotContains(t, err.Error(), "\n")
				require.NotContains(t, err.Error(), "<html>")
				tries := int64(2)
				switch name {
				case "nothing", "a page", "JSON of another service", "JSON of another type":
					tries = 1
				}
				require.Condition(t, func() bool { n := liar.Requests.Load(); return n == tries || tries > 1 && n > tries }, "%d requests; net/http sends some again by itself", liar.Requests.Load())
				liar.Tell(nil)
				require.NoError(t, call(t, table))
			})
		}
	}
}

func errorOf(items iter.Seq2[branchkey.Item, error]) (err error) {
	for _, err = range items {
		if err != nil {
			return err
		}
	}
	return nil
}
