package api

//go:generate go tool oapi-codegen -config model/model.cfg.yaml openapi.yaml
//go:generate go tool oapi-codegen -config server.cfg.yaml openapi.yaml
//go:generate go tool oapi-codegen -config client/client.cfg.yaml openapi.yaml
