// Package deploy lets ansible/ turn bare Debian hosts into two sites and a
// witness, and asks them whether they are what the roles promise. The hosts are
// systemd-nspawn containers with SSH. They, their network and all their
// processes live in namespaces of the test, so nothing outlives it, and no
// packet leaves it. What needs the registries is fetched before.
package deploy
