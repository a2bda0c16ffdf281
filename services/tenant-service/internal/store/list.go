package store

import (
	"context"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// searched is how many tenants one page looks at for a part of a name, which no index helps to find.
const searched = 10_000

// List returns up to limit tenants behind after that match filter, in the order of their creation, without deleted ones; where the
// next page begins, and whether there may be more. A page that looks for a part of a name ends after 10,000 tenants, however few of
// them match.
func (s *Store) List(ctx context.Context, filter tenant.Filter, after tenant.Position, limit int) (
	page []tenant.Tenant, next tenant.Position, more bool, err error,
) {
	db, done := s.session(ctx)
	defer done()
	query := db.Where("state <> ?", tenant.Deleted)
	if after != (tenant.Position{}) {
		query = query.Where("(created_at, id) > (?, ?)", after.CreatedAt, after.ID)
	}
	if filter.State != "" {
		query = query.Where("state = ?", filter.State)
	}
	if filter.ID != uuid.Nil {
		query = query.Where("id = ?", filter.ID)
	}
	next = after
	if filter.Name != "" {
		end, beyond, err := endOfSearch(query)
		if err != nil {
			return nil, after, false, wrap("bound the search for tenants", err)
		}
		if beyond {
			next, more = end, true
			query = query.Where("(created_at, id) <= (?, ?)", end.CreatedAt, end.ID)
		}
		query = query.Where("strpos(lower(name), lower(?)) > 0", filter.Name)
	}
	if err := query.Order("created_at, id").Limit(limit + 1).Find(&page).Error; err != nil {
		return nil, after, false, wrap("list tenants", err)
	}
	for i := range page {
		page[i] = utc(page[i])
	}
	switch {
	case len(page) > limit:
		page = page[:limit]
		return page, page[limit-1].Position(), true, nil
	case len(page) > 0 && !more:
		next = page[len(page)-1].Position()
	}
	return page, next, more, nil
}

// endOfSearch is where a search through what query selects ends if there is more than one page may look at.
func endOfSearch(query *gorm.DB) (end tenant.Position, beyond bool, err error) {
	var last []tenant.Tenant
	err = query.Session(&gorm.Session{}).Select("created_at", "id").Order("created_at, id").Offset(searched - 1).Limit(2).Find(&last).Error
	if err != nil || len(last) < 2 {
		return tenant.Position{}, false, err
	}
	return last[0].Position(), true, nil
}
