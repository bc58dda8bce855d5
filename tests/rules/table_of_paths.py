"""Rules that look at the path, and the ways in which clients try to dodge them."""

from __future__ import annotations

from tests.rules.scenario import Scenario, routes

_ADMIN = routes('admin: path = "/admin"')

SCENARIOS = {
    "order": Scenario(
        routes(
            'api: host = "shop.example", path = "/api"',
            'shop: host = "shop.example"',
            'api: path = "/api"',
            'canary: host = "*.example", path = "/api/v2"',
            'other: path = "/"',
        ),
        """
        GET shop.example/api            => api
        GET shop.example/api/v2         => api
        GET shop.example/               => shop
        GET www.example/api/v2          => api
        GET www.example/x               => other
        OPTIONS shop.example*           => shop
        OPTIONS www.example*            => site
        """,
    ),
    "order turned": Scenario(
        routes(
            'canary: host = "*.example", path = "/api/v2"',
            'api: path = "/api"',
            'shop: host = "shop.example"',
        ),
        """
        GET shop.example/api/v2/x       => canary
        GET shop.example/api/v1         => api
        GET shop.example/api/v22        => api
        GET shop.example/cart           => shop
        GET example.org/cart            => site
        """,
    ),
    "prefix": Scenario(
        _ADMIN + routes('api: path = ["/api/", "/v1"]', 'shop: path = "/a b"', 'other: path = "/caf\u00e9"'),
        """
        GET a/admin                     => admin
        GET a/admin/                    => admin
        GET a/admin/users?x=/y          => admin
        GET a/admin?x                   => admin
        GET a/administrator             => site
        GET a/Admin                     => site
        GET a/x/admin                   => site
        GET a/admi                      => site
        GET a/                          => site
        GET a/?/admin                   => site
        GET a/api                       => site
        GET a/api/                      => api
        GET a/api/x                     => api
        GET a/v1                        => api
        GET a/v1/x                      => api
        GET a/v11                       => site
        GET a/a%20b/c                   => shop
        GET a/caf%C3%A9                 => other
        GET a/caf%c3%a9/x               => other
        """,
    ),
    "prefix dodged": Scenario(
        _ADMIN,
        r"""
        GET a/%61dmin                   => admin
        GET a/%61%64%6D%69%6E/x         => admin
        GET a/x/../admin                => admin
        GET a/x/%2e%2e/admin            => admin
        GET a/x/%2E./admin              => admin
        GET a/x/.%2e/admin/y            => admin
        GET a/./admin                   => admin
        GET a/%2e/admin                 => admin
        GET a//admin                    => admin
        GET a///admin//x                => admin
        GET a/../admin                  => admin
        GET a/../../../admin            => admin
        GET a/x/y/../../admin           => admin
        GET a/admin/.                   => admin
        GET a/admin/x/..                => admin
        GET a/admin/..                  => site
        GET a/admin/../x                => site
        GET a/x/..admin                 => site
        GET a/.well-known/x             => site
        GET a/...                       => site
        GET a/admin%20                  => site
        GET a/admin%0a                  => site
        GET a/x%3fadmin                 => site
        GET a/admin%3fx                 => site
        """,
    ),
    "ambiguous": Scenario(
        _ADMIN,
        r"""
        GET a/x%2fadmin                 => 400
        GET a/x%2Fadmin                 => 400
        GET a/%2fadmin                  => 400
        GET a/x%5cadmin                 => 400
        GET a/x\..\admin                => 400
        GET a/x%5C..%5Cadmin            => 400
        GET a/admin%00                  => 400
        GET a/admin%00.png              => 400
        GET a/admin;x                   => 400
        GET a/x/..;/admin               => 400
        GET a/x/..;a=b/admin            => 400
        GET a/admin%3bx                 => 400
        GET a/%2561dmin                 => 400
        GET a/x/%252e%252e/admin        => 400
        GET a/x%252fadmin               => 400
        GET a/%25%36%31dmin             => 400
        GET a/admin%                    => 400
        GET a/admin%6                   => 400
        GET a/%u0061dmin                => 400
        GET a/admin%zz                  => 400
        GET a/x%c0%afadmin              => 400
        GET a/x/%c0%ae%c0%ae/admin      => 400
        GET a/x%e0%80%afadmin           => 400
        GET a/x%f0%80%80%afadmin        => 400
        GET a/x//../admin               => 400
        GET a/x//..//../admin           => 400
        GET a/100%25                    => site
        GET a/100%25/x                  => site
        GET a/x?next=%2fadmin;x%00      => site
        GET a/x?%zz                     => site
        """,
    ),
    "ambiguous without a rule for paths": Scenario(
        routes('shop: host = "shop.example"'),
        r"""
        GET shop.example/x%2fadmin      => shop
        GET shop.example/..;/%zz        => shop
        GET shop.example/a\b%00         => shop
        GET example.org/%2561           => site
        """,
    ),
    "ambiguous and passed": Scenario(
        _ADMIN,
        r"""
        GET a/x/..%2fadmin              => admin
        GET a/%2fadmin                  => admin
        GET a/x\..\admin                => admin
        GET a/x/..;/admin               => admin
        GET a/admin;jsessionid=1        => admin
        GET a/%2561dmin                 => admin
        GET a/x%2fadmin                 => site
        GET a/cart;jsessionid=1         => site
        GET a/admin%zz                  => site
        GET a/%61dmin                   => admin
        """,
        keys={"ambiguous_paths": "pass"},
    ),
    "other ways to name paths": Scenario(
        routes(
            'api: path_exact = ["/exact", "/exact/dir/"]',
            'shop: starts_with = "/sta"',
            'admin: path_glob = ["*.php", "/img/*/thumb-*.png"]',
            'canary: path_glob = ["/deep/**/end", "/two/**/mid/**/end"]',
        ),
        """
        GET a/exact                     => api
        GET a/exact?x                   => api
        GET a/exact/                    => site
        GET a/exact/dir/                => api
        GET a/exact/dir                 => site
        GET a/%65xact                   => api
        GET a/start                     => shop
        GET a/sta                       => shop
        GET a/%73tart                   => shop
        GET a/x/../start                => shop
        GET a/st                        => site
        GET a/index.php                 => admin
        GET a/x/y/index.php?z           => admin
        GET a/x/y/index.%70hp           => admin
        GET a/index.php/x               => site
        GET a/index.phps                => site
        GET a/img/7/thumb-1.png         => admin
        GET a/img/7/8/thumb-1.png       => site
        GET a/img/7/thumb-1.jpg         => site
        GET a/deep/end                  => canary
        GET a/deep/x/y/end              => canary
        GET a/deep/end/x/end            => canary
        GET a/deep/end/x                => site
        GET a/two/mid/end               => canary
        GET a/two/x/mid/y/z/end         => canary
        GET a/two/x/y/mid/end           => canary
        GET a/two/x/end                 => site
        """,
    ),
    "path regex": Scenario(
        routes(
            r"""api: path_regex = '^/(?P<area>a|b)/[0-9]+$'""",
            r"""admin: path_regex = ['^/x.*\.(jpg|png)$', '^/y/']""",
        ),
        """
        GET a/a/12                      => api
        GET a/%61/12                    => api
        GET a/a/12/                     => site
        GET a/c/12                      => site
        GET a/x/1.png                   => admin
        GET a/x/%0a/1.png               => admin
        GET a/x/%ff.png                 => admin
        GET a/y/z                       => admin
        GET a/yz                        => site
        """,
    ),
    "backends by variables": Scenario(
        '[[rule]]\nmatch = { path_regex = "^/t/(?P<tenant>[a-z]+)/([0-9])" }\nbackend = "app-{re.tenant}"\n'
        '[[rule]]\nmatch = { host = "*.apps.example" }\nbackend = "app-{host.1}"\n'
        '[[rule]]\nmatch = { path = "/by" }\nbackend = "{path.2}"\n',
        """
        GET a/t/b/1                     => app-b
        GET a/t/a/1                     => app-a
        GET a/t/c/1                     => site
        GET a.apps.example/             => app-a
        GET B.Apps.Example.:80/         => app-b
        GET c.apps.example/             => site
        GET a/by/canary/x               => canary
        GET a/by/nobody                 => site
        GET a/by                        => site
        """,
    ),
}
