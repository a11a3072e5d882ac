# shellcheck shell=bash
# Sourced by the other scripts: puts the package, its plugins and the developer tools into .venv of the
# checkout. Does nothing when that is already so. $PYTHON chooses the interpreter (3.10 or newer), $DIFFRECON_VENV
# another folder, $DIFFRECON_EXTRA other tools: an extra of setup.cfg.

setup_environment() {
    local root plugin wanted stamp python version venv="${DIFFRECON_VENV:-.venv}" extra="${DIFFRECON_EXTRA:-dev}"
    local -a files plugins
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    files=(setup.cfg pyproject.toml constraints.txt)
    plugins=()
    for plugin in diffrecon-dask diffrecon-wavelets "diffrecon-mri[mrd]" diffrecon-rtk diffrecon-twix diffrecon-published \
        "diffrecon-ncsnpp[diffusers]"; do
        files+=("plugins/${plugin%%[*}/setup.cfg" "plugins/${plugin%%[*}/pyproject.toml")
        plugins+=(-e "plugins/$plugin")
    done
    stamp="$root/$venv/.setup-stamp"
    wanted="$(cd "$root" && sha256sum "${files[@]}")" || return
    wanted="$root"$'\n'"$wanted"

    if [[ ! -x "$root/$venv/bin/python" ]]; then
        python="${PYTHON:-python3}"
        if ! version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))')"; then
            echo "error: Python 3.10 or newer is needed, $python is ${version:-not one}; set PYTHON." >&2
            return 2
        fi
        echo "creating $venv with $python (Python $version)"
        "$python" -m venv "$root/$venv" || return
    fi

    if [[ ! -f "$stamp" || "$(cat "$stamp")" != "$wanted" ]]; then
        echo "installing into $venv"
        rm -f "$stamp"
        # Compiling all of the packages takes minutes; Python compiles those that are imported.
        (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
            -c constraints.txt -e ".[$extra]" "${plugins[@]}") || return
        printf '%s\n' "$wanted" >"$stamp"
    fi
    export PATH="$root/$venv/bin:$PATH" VIRTUAL_ENV="$root/$venv"
}

setup_environment
