package audit

import (
	"context"

	"spillway"
)

// missingMax is how many records may be missing in a row until the audit loses its way.
const missingMax = 1 << 17

// missing tells where the source goes on with the target's next record, if the target's
// map says that it lies further on than the window reaches. The map is only a hint: the
// two records have to be equal.
func (a *auditor) missing(ctx context.Context, t record) (records int, err error) {
	if t.virtual < 0 {
		return 0, nil
	}
	for i := range missingMax {
		s, ok, err := a.source.peek(ctx, i)
		if err != nil || !ok {
			return 0, err
		}
		at := s.virtual
		if at < 0 {
			at = spillway.Offset(s.local)
		}
		if at >= t.virtual {
			if i == 0 || at > t.virtual || !equal(s, t) {
				return 0, nil
			}
			return i, nil
		}
	}
	return 0, nil
}
