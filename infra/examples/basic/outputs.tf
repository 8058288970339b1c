output "gust_toml" {
  value = module.gust.gust_toml
}

output "coordinator_role_arn" {
  value = module.gust.coordinator_role_arn
}

output "coordinator_policy_arns" {
  value = module.gust.coordinator_policy_arns
}

output "function_role_names" {
  value = module.gust.function_role_names
}
