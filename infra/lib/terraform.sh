# Terraform for the scripts here and for the tests, with fixed settings: source this file and call `terraform_setup`, or run
# `infra/terraform`, which does so.

# Folders in which Linux distributions and people put downloaded providers. An air-gapped machine has them there.
terraform_mirror_folders() {
  printf '%s\n' "${TF_PLUGIN_MIRROR:-}" "$HOME/.terraform.d/plugins" /usr/local/share /usr/share /usr/local/lib /usr/lib /opt
}

# Prints the folder of providers that has an AWS provider for this machine that versions.tf accepts. Fails if there is none.
terraform_mirror() {
  local platform folder provider file
  case "$(uname -m)" in
    x86_64) platform=amd64 ;;
    aarch64 | arm64) platform=arm64 ;;
    *) return 1 ;;
  esac
  platform="$(uname -s | tr '[:upper:]' '[:lower:]')_$platform"
  while read -r folder; do
    [ -n "$folder" ] && [ -d "$folder" ] || continue
    while read -r provider; do
      # unpacked: 5.100.0/linux_amd64/; packed: terraform-provider-aws_5.100.0_linux_amd64.zip
      for file in "$provider"/5.[1-9][0-9][0-9].*/"$platform" "$provider"/terraform-provider-aws_5.[1-9][0-9][0-9].*_"$platform".zip; do
        [ -e "$file" ] || continue
        printf '%s\n' "${provider%/registry.terraform.io/hashicorp/aws}"
        return 0
      done
    done < <(find "$folder" -maxdepth 5 -type d -path '*/registry.terraform.io/hashicorp/aws' 2>/dev/null)
  done < <(terraform_mirror_folders)
  return 1
}

# Exports TF_CLI_CONFIG_FILE and the variables that keep Terraform quiet. A file that the user has set is left alone.
terraform_setup() {
  local cache="${XDG_CACHE_HOME:-$HOME/.cache}/gust/terraform" mirror config
  export TF_IN_AUTOMATION=1 TF_INPUT=0 CHECKPOINT_DISABLE=1
  [ ! -f "${TF_CLI_CONFIG_FILE:-$HOME/.terraformrc}" ] || return 0
  mkdir -p "$cache/plugins"
  config="$(mktemp "$cache/config.XXXXXX")"
  if mirror="$(terraform_mirror)"; then
    printf 'disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$mirror" >"$config"
  else
    # Terraform downloads the provider once a machine: it unpacks to 700 MB.
    printf 'disable_checkpoint = true\nplugin_cache_dir = "%s"\nplugin_cache_may_break_dependency_lock_file = true\n' "$cache/plugins" >"$config"
  fi
  # The file is renamed into place, because several runs may do this at once.
  mv "$config" "$cache/config.tfrc"
  export TF_CLI_CONFIG_FILE="$cache/config.tfrc"
}

# Copies `infra/` without state, so that Terraform writes nothing into the checkout: `infra_copy TARGET`
infra_copy() {
  local infra
  infra="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  mkdir -p "$1"
  tar -C "$infra" --exclude .terraform --exclude '.terraform.lock.hcl' --exclude '*.tfstate*' --exclude 'terraform.tfvars' -cf - . | tar -C "$1" -xf -
}
