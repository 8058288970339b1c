output "gust_toml" {
  value = module.gust.gust_toml
}

output "coordinator_role_arn" {
  value = module.gust.coordinator_role_arn
}
