package auditlog

import "context"

// Statement is what the part of a page that is of the current epoch is read with.
func (l *Log) Statement(ctx context.Context, filter Filter, after Position, limit int) (sql string, arguments []any, err error) {
	w, err := l.window(ctx, filter, after)
	if err != nil {
		return "", nil, err
	}
	sql, arguments = statement(filter, w, w.epoch, limit+1)
	return sql, arguments, nil
}
