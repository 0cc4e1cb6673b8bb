package lazy_test

import (
	"context"
	"fmt"

	"piko.sh/pikokms/provider/lazy"
)

// A key service is asked once for what does not change.
func Example() {
	var version lazy.Value[string]
	ask := func(context.Context) (string, error) {
		fmt.Println("asked")
		return "v2", nil
	}
	for range 2 {
		fmt.Println(version.Get(context.Background(), ask))
	}
	// Output:
	// asked
	// v2 <nil>
	// v2 <nil>
}
