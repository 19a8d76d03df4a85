# pdreactor: install, uninstall and test.

PREFIX     = /usr/local
SYSCONFDIR = /etc
DESTDIR    =
# The interpreter that the launchers name. No pip and no network are needed to install.
PYTHON     = /usr/bin/python3

SBINDIR = $(PREFIX)/sbin
LIBDIR  = $(PREFIX)/lib/pdreactor
MANDIR  = $(PREFIX)/share/man
DOCDIR  = $(PREFIX)/share/doc/pdreactor

# Where dhcpcd looks for hooks: /usr/lib on Debian and Arch, /lib where / and /usr are not merged.
DHCPCD_HOOKS = $(firstword $(wildcard /usr/lib/dhcpcd/dhcpcd-hooks /usr/libexec/dhcpcd-hooks \
	/lib/dhcpcd/dhcpcd-hooks) /usr/lib/dhcpcd/dhcpcd-hooks)

# Drop-ins for dhcpcd's units, and units of our own: only where there is systemd. SYSTEMD=yes or SYSTEMD=no
# decides. Nothing is enabled.
SYSTEMD   = $(if $(wildcard /usr/lib/systemd/systemd /lib/systemd/systemd),yes,no)
UNITS     = dhcpcd.service dhcpcd@.service
OWN_UNITS = pdreactor-restore.service pdreactor-restore.timer pdreactor-watch.service \
	pdreactor-firewall.service
ENABLED   = pdreactor-restore.timer pdreactor-watch.service pdreactor-firewall.service
UNITDIR   = $(SYSCONFDIR)/systemd/system
TMPFILES  = $(SYSCONFDIR)/tmpfiles.d/pdreactor.conf
RUNDIR    = /run/pdreactor

SOURCES  = $(wildcard pdreactor/*.py pdreactor/*/*.py)
PACKAGES = $(sort $(patsubst %/,%,$(dir $(SOURCES))))
MAN8     = $(wildcard man/*.8)
MAN5     = $(wildcard man/*.5)
DOCS     = $(wildcard README.md CHANGELOG.md contrib/*.example)

PYTEST_ARGS =
# Test files that run at the same time; each test has namespaces of its own. JOBS=0 is one by one.
JOBS        = 2
PYTEST      = -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# The longest first, so that nobody waits for them at the end.
ALL         = tests/guest tests/netns/test_ha.py tests/netns/test_change.py tests/netns tests/unit
# What is repeated with the newest pyroute2, structlog, tenacity and python-iptables: what uses them, in
# the default backend and mode. NEWEST= leaves it out.
NEWEST_FILES = conntrack dhcpcd doctor places prefixes proxy state_and_restore uplinks watch
NEWEST_UNITS = cli doctor hook imports iptables_plan log reconciler routing xtables
NEWEST       = $(NEWEST_FILES:%=tests/netns/test_%.py) $(NEWEST_UNITS:%=tests/unit/test_%.py) \
	-m "not variants"

help:
	@echo 'make install     install below $(PREFIX) (PREFIX=, DESTDIR=, SYSCONFDIR=, DHCPCD_HOOKS=)'
	@echo 'make uninstall   remove what install put there, with the same variables'
	@echo 'make test        prepare the machine, then all checks and tests (as root)'
	@echo 'make setup       only prepare the machine: Debian packages, virtual environments'
	@echo 'make lint        ruff, mypy, the man pages and the shell files'
	@echo 'make unit        the tests that need neither root nor namespaces'
	@echo 'make demo        see a prefix change, in private namespaces (as root)'
	@echo 'make bench       measure (as root; BENCH_ARGS="--peer SCRIPT" compares)'
	@echo 'make clean       remove what the above left here, but for .cache'

all: help

install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'install: $(PYTHON) is not Python 3.11 or newer; set PYTHON=' >&2; exit 1; }
	@# Beside the old one, then changed places: an event that comes meanwhile is not lost.
	rm -rf '$(DESTDIR)$(LIBDIR)/new' '$(DESTDIR)$(LIBDIR)/old'
	set -e; for package in $(PACKAGES); do \
		install -d "$(DESTDIR)$(LIBDIR)/new/$$package"; \
		install -m 644 $$package/*.py "$(DESTDIR)$(LIBDIR)/new/$$package"; done
	@# The sandbox of dhcpcd cannot write byte code later.
	env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -I -m compileall -q \
		-s '$(DESTDIR)$(LIBDIR)/new' -p '$(LIBDIR)' '$(DESTDIR)$(LIBDIR)/new/pdreactor'
	set -e; cd '$(DESTDIR)$(LIBDIR)'; [ ! -e pdreactor ] || mv pdreactor old; \
		mv new/pdreactor pdreactor; rm -rf new old
	install -d '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(DHCPCD_HOOKS)'
	set -e; for launcher in pdreactor pdreactor-hook; do \
		sed -e 's|@LIBDIR@|$(LIBDIR)|; 1s|/usr/bin/python3|$(PYTHON)|' contrib/bin/$$launcher \
			>"$(DESTDIR)$(SBINDIR)/$$launcher"; \
		chmod 755 "$(DESTDIR)$(SBINDIR)/$$launcher"; done
	set -e; for page in $(MAN8); do \
		install -D -m 644 $$page "$(DESTDIR)$(MANDIR)/man8/$${page##*/}"; done
	set -e; for page in $(MAN5); do \
		install -D -m 644 $$page "$(DESTDIR)$(MANDIR)/man5/$${page##*/}"; done
	set -e; for file in LICENSE $(DOCS); do \
		install -D -m 644 $$file "$(DESTDIR)$(DOCDIR)/$${file##*/}"; done
	set -e; [ '$(SYSTEMD)' != yes ] || for unit in $(UNITS); do \
		install -D -m 644 contrib/systemd/dhcpcd.service.d/pdreactor.conf \
			"$(DESTDIR)$(UNITDIR)/$$unit.d/pdreactor.conf"; done
	set -e; [ '$(SYSTEMD)' != yes ] || for unit in $(OWN_UNITS); do \
		sed -e 's|/usr/local/sbin|$(SBINDIR)|' contrib/systemd/$$unit \
			>"$(DESTDIR)$(UNITDIR)/$$unit"; \
		chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit"; done
	[ '$(SYSTEMD)' != yes ] || \
		install -D -m 644 contrib/tmpfiles.d/pdreactor.conf '$(DESTDIR)$(TMPFILES)'
	[ '$(SYSTEMD)$(DESTDIR)' != yes ] || install -d -m 755 '$(RUNDIR)'
	@# The hook goes last, and by rename: dhcpcd may be reading it now. It passes dot files over.
	sed -e 's|@SBINDIR@|$(SBINDIR)|' hooks/60-pdreactor >'$(DESTDIR)$(DHCPCD_HOOKS)/.60-pdreactor'
	chmod 644 '$(DESTDIR)$(DHCPCD_HOOKS)/.60-pdreactor'
	mv -f '$(DESTDIR)$(DHCPCD_HOOKS)/.60-pdreactor' '$(DESTDIR)$(DHCPCD_HOOKS)/60-pdreactor'
ifeq ($(DESTDIR),)
	@[ '$(SYSTEMD)' != yes ] || \
		echo 'Now: systemctl daemon-reload, and restart dhcpcd once for its new sandbox.'
	@[ -e /etc/pdreactor.toml ] || echo 'Now: write /etc/pdreactor.toml, see pdreactor.toml(5).'
endif

# The hook and the units go first, so that nothing starts what is half removed, or comes after
# "flush". What pdreactor holds in the kernel would stay there with nobody to look after it, so that
# goes too, and with it what was learned. The configuration is the user's and stays.
uninstall:
	rm -f '$(DESTDIR)$(DHCPCD_HOOKS)/60-pdreactor'
ifeq ($(DESTDIR),)
	@[ '$(SYSTEMD)' != yes ] || for unit in $(ENABLED); do \
		[ ! -e "$(UNITDIR)/$$unit" ] || systemctl -q disable --now $$unit || :; done
	@[ '$(SYSTEMD)' != yes ] || [ ! -e '$(UNITDIR)/pdreactor-restore.service' ] || \
		systemctl -q stop pdreactor-restore.service || :
	@if [ "$$(id -u)" = 0 ] && [ -x '$(SBINDIR)/pdreactor' ]; then \
		'$(SBINDIR)/pdreactor' flush --forget || \
			echo 'uninstall: "pdreactor flush" failed; the kernel may still hold its rules' >&2; fi
	rmdir /var/lib/pdreactor '$(RUNDIR)' 2>/dev/null || :
else
	@echo 'On a running system, "pdreactor flush --forget" first removes its rules and its state.'
endif
	rm -f '$(DESTDIR)$(SBINDIR)/pdreactor' '$(DESTDIR)$(SBINDIR)/pdreactor-hook'
	rm -rf '$(DESTDIR)$(LIBDIR)/pdreactor'
	for page in $(MAN8); do rm -f "$(DESTDIR)$(MANDIR)/man8/$${page##*/}"; done
	for page in $(MAN5); do rm -f "$(DESTDIR)$(MANDIR)/man5/$${page##*/}"; done
	for file in LICENSE $(DOCS); do rm -f "$(DESTDIR)$(DOCDIR)/$${file##*/}"; done
	for unit in $(UNITS); do rm -f "$(DESTDIR)$(UNITDIR)/$$unit.d/pdreactor.conf"; \
		rmdir "$(DESTDIR)$(UNITDIR)/$$unit.d" 2>/dev/null || :; done
	for unit in $(OWN_UNITS); do rm -f "$(DESTDIR)$(UNITDIR)/$$unit"; done
	rm -f '$(DESTDIR)$(TMPFILES)'
	for directory in '$(LIBDIR)' '$(DOCDIR)' '$(MANDIR)/man8' '$(MANDIR)/man5' \
		'$(dir $(TMPFILES))'; do \
		rmdir "$(DESTDIR)$$directory" 2>/dev/null || :; done

setup:
	sh tests/setup.sh

lint:
	.venv/bin/ruff check
	.venv/bin/mypy
	@# sh cannot lint, but a syntax error in a file that dhcpcd sources would end all its hooks.
	sh -n hooks/60-pdreactor
	sh -n contrib/xen/vif-route-pdreactor
ifneq ($(MAN8)$(MAN5),)
	mandoc -T lint -W warning $(MAN8) $(MAN5)
endif

unit:
	.venv/bin/python $(PYTEST) tests/unit $(PYTEST_ARGS)

# The oldest supported libraries last: the line at the end is the whole suite's.
test: setup
	$(MAKE) --no-print-directory lint
ifneq ($(strip $(NEWEST)),)
	.venv-newest/bin/python $(PYTEST) $(NEWEST) $(PYTEST_ARGS)
endif
	.venv/bin/python $(PYTEST) $(ALL) $(PYTEST_ARGS)

demo:
	@mkdir -p .cache; echo 'Preparing this machine (the first time this takes a minute or two) ...'
	@sh tests/setup.sh >.cache/setup.log 2>&1 || { cat .cache/setup.log >&2; exit 1; }
	@$(PYTHON) contrib/demo/demo.py

bench: setup
	$(PYTHON) bench/run $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	rm -f .cache/setup.stamp
	find pdreactor tests bench -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help all install uninstall setup lint unit test demo bench clean
