package work

import (
	"context"
	"fmt"

	"piko.sh/pikokms/cmd/pikokms/internal/look"
)

// ExamineAll examines the objects of a plan, several at a time, and passes them to take in the
// order of the plan. It tries again after errors that may pass, and stops early when one object
// after another fails.
func (e *Each) ExamineAll(ctx context.Context, p *Plan, take func(*look.Object) error) error {
	stop := new(stopping)
	err := InOrder(ctx, e.jobs, stop.until(p.All()), func(i Item) *look.Object {
		x, err := retry(ctx, i, stop, func(ctx context.Context, i Item) (*look.Object, error) {
			x := look.Examine(ctx, i.place, i.Key)
			if x.Kind == "" {
				return x, x.Err
			}
			return x, nil
		})
		stop.count(err)
		return x
	}, take)
	if err == nil && stop.reason() != "" {
		err = fmt.Errorf("stopped after %s", stop.reason())
	}
	return err
}
