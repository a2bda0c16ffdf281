package openapi

import "strings"

// Route is where an operation is found.
type Route struct {
	// Operation is its id, Method and Path those of the document, with {name} for each parameter of the path.
	Operation, Method, Path string
	// Service is the one that answers: the description of the operation's first server.
	Service string
	// Body says that a request may have a body.
	Body bool
}

// Routes are the routes of all operations.
func (d *Document) Routes() []Route {
	routes := make([]Route, 0, len(d.operations))
	for _, o := range d.operations {
		service := ""
		if servers, ok := d.object(o.pointer)["servers"].([]any); ok && len(servers) > 0 {
			service, _ = asObject(servers[0])["description"].(string)
		}
		routes = append(routes, Route{
			Operation: o.id, Method: o.method, Path: strings.Join(o.segments, "/"), Service: service,
			Body: d.at(o.pointer.to("requestBody")) != nil,
		})
	}
	return routes
}
